"""Broken and odd pictures and model files, each made from a seed; and the program that feeds them to tinydet_lite.

    python mutations.py images MODEL FOLDER FIRST LAST
    python mutations.py models MODEL FOLDER FIRST LAST

prints "SEED KIND" before each one and "SEED KIND ok" or "SEED KIND refused: MESSAGE" behind it, so that after a crash
the last line names the culprit.
"""

from __future__ import annotations

import copy
import io
import signal
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tinydet_lite import Detector, UserError
from tinydet_lite.guard.flatbuffer import read_flatbuffer
from tinydet_lite.guard.trial import try_model
from tinydet_lite.lab.ceiling import conv_stack
from tinydet_lite.lab.inspection import inspect_model
from tinydet_lite.metadata import append_metadata, read_model

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "BMP": ("RGB", "L", "P", "1"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L", "RGB"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "I;16", "1"),
}
#: What must be accepted, what must be refused; of the rest either is right.
SOUND_IMAGES = ("whole", "animated", "exif")
WRONG_IMAGES = ("empty", "foreign", "bomb", "header")
IMAGE_KINDS = (*SOUND_IMAGES, *WRONG_IMAGES, "truncated", "flipped", "exif nonsense", "tail", "spliced")
SOUND_MODELS = ("whole",)
WRONG_MODELS = ("empty", "truncated", "no model", "other model", "declared size", "huge tensor", "no signature")
MODEL_KINDS = (
    *SOUND_MODELS,
    *WRONG_MODELS,
    "swapped",
    "flipped",
    "zip flipped",
    "forged flips",
    "forged flips",
    "forged cut",
    "bare flips",
)
#: Where the two outputs have the same shape, nobody can tell.
WRONG_IF_SHAPES_DIFFER = ("swapped",)
SECONDS = 60  # of one mutation
_GIB = 1 << 30


def image_mutation(seed: int) -> tuple[str, bytes]:
    """(kind, the file)."""
    rng = np.random.default_rng([1, seed])
    kind = IMAGE_KINDS[seed % len(IMAGE_KINDS)]
    if kind == "empty":
        return kind, b"\0" * int(rng.integers(0, 3) * 50)
    if kind == "foreign":
        return kind, _foreign(rng)
    if kind == "bomb":
        return kind, _bomb(rng)
    form = str(rng.choice(("GIF", "PNG", "WEBP") if kind == "animated" else FORMATS))
    if kind == "exif":
        form = str(rng.choice(("JPEG", "PNG", "WEBP", "TIFF")))
    if kind == "exif nonsense":
        form = "JPEG"
    content = bytearray(_picture(rng, form, kind))
    if kind == "header":
        content[:16] = rng.bytes(16)
    elif kind == "truncated":
        del content[int(rng.integers(0, len(content))) :]
    elif kind == "flipped":
        # The first bytes decide most.
        end = len(content) if rng.random() < 0.5 else min(len(content), 120)
        for place in rng.integers(0, end, rng.integers(1, 20)):
            content[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == "exif nonsense":
        nonsense = (
            b"Exif\0\0" + (b"II*\0\x08\0\0\0" if rng.random() < 0.7 else b"") + rng.bytes(int(rng.integers(0, 200)))
        )
        content[2:2] = b"\xff\xe1" + struct.pack(">H", len(nonsense) + 2) + nonsense
    elif kind == "tail":
        content += rng.bytes(500)
    elif kind == "spliced":
        first, second = sorted(map(int, rng.integers(0, len(content), 2)))
        content = content[:first] + content[second:] + content[first:second]
    return kind, bytes(content)


def _picture(rng: np.random.Generator, form: str, kind: str) -> bytes:
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    mode = str(rng.choice(MODES[form]))
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    elif mode == "LA":
        image = Image.fromarray(noise).convert("L").convert("LA")
    else:
        image = Image.fromarray(noise).convert(mode)
    options: dict[str, object] = {}
    if kind == "animated":
        others = [Image.fromarray(np.roll(noise, shift, 0)).convert(image.mode) for shift in (1, 2)]
        options = {"save_all": True, "append_images": others}
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 12))  # 1 to 8 mean something
        options["exif"] = exif
    if mode == "P" and form != "BMP" and rng.random() < 0.5:
        options["transparency"] = int(rng.integers(0, 256))
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _foreign(rng: np.random.Generator) -> bytes:
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    form = str(rng.choice(("PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "text", "svg", "tflite")))
    if form in ("text", "svg", "tflite"):
        return {
            "text": b"hello\n" * 9,
            "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "tflite": b"\x1c\0\0\0TFL3",
        }[form]
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def _bomb(rng: np.random.Generator) -> bytes:
    """A small file that declares a side of some ten thousand pixels, or of billions."""
    form = str(rng.choice(("JPEG", "PNG", "BMP", "GIF", "TIFF")))
    side = int(rng.choice((20_000, 65_500, 2**31 - 1)))
    short = min(side, 65_500)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, form)
    content = bytearray(buffer.getvalue())
    if form == "PNG":
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif form == "BMP":
        content[18:26] = struct.pack("<ii", side, side)
    elif form == "GIF":
        content[6:10] = struct.pack("<HH", short, short)
        frame = content.index(b"\x2c", 13 + 3 * 2 ** ((content[10] & 7) + 1))
        content[frame + 5 : frame + 9] = struct.pack("<HH", short, short)
    elif form == "JPEG":
        start = content.index(b"\xff\xc0")
        content[start + 5 : start + 9] = struct.pack(">HH", short, short)
    else:
        entries = struct.unpack_from("<I", content, 4)[0]
        for place in range(entries + 2, entries + 2 + 12 * struct.unpack_from("<H", content, entries)[0], 12):
            if struct.unpack_from("<H", content, place)[0] in (256, 257):  # ImageWidth, ImageLength
                struct.pack_into("<HII", content, place + 2, 4, 1, side)
    return bytes(content)


def model_mutation(seed: int, path: Path) -> tuple[str, bytes]:
    """(kind, the file), made from a TinyDet file."""
    rng = np.random.default_rng([2, seed])
    kind = MODEL_KINDS[seed % len(MODEL_KINDS)]
    content = path.read_bytes()
    file = read_model(path)
    info, labels = file.info, file.labels
    model = bytearray(file.model)
    if kind == "whole":
        return kind, content
    if kind == "empty":
        return kind, b"\0" * int(rng.integers(0, 3) * 500)
    if kind == "truncated":
        return kind, content[: int(rng.integers(1, len(content)))]
    if kind in ("flipped", "zip flipped"):
        damaged = bytearray(content)
        start = len(model) if kind == "zip flipped" else 0
        for place in rng.integers(start, len(content), rng.integers(1, 6)):
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        return kind, bytes(damaged)
    # Below the checksum fits.
    if kind == "no model":
        model = bytearray(b"\x1c\0\0\0TFL3" + rng.bytes(int(rng.integers(0, 300))))
    elif kind == "other model":
        model = bytearray(conv_stack(bool(rng.integers(0, 2))))
    elif kind == "forged cut":
        model = model[: max(64, int(rng.integers(0, len(model))))]
    elif kind in ("forged flips", "bare flips"):
        structure = _structure(bytes(model))
        for place in rng.choice(structure, rng.integers(1, 4)):
            model[place] = (
                model[place] ^ 1 << int(rng.integers(0, 8)) if rng.random() < 0.5 else int(rng.integers(0, 256))
            )
        if kind == "bare flips":
            return kind, bytes(model)
    elif kind == "declared size":
        # A length or an offset somewhere becomes huge; the first is the root's.
        place = 0 if rng.random() < 0.3 else int(rng.choice(_lengths(bytes(model))))
        model[place : place + 4] = struct.pack("<I", int(rng.choice((2**31 - 1, 2**32 - 1, 2**30))))
    else:
        model = bytearray(_edited(bytes(model), kind, rng))
    return kind, append_metadata(bytes(model), info, labels)


def _schema():
    import ai_edge_litert.schema_py_generated as schema

    return schema


def _structure(model: bytes) -> np.ndarray:
    """The places of all bytes but those of large buffers, whose values are weights."""
    root = _schema().Model.GetRootAs(model)
    inside = np.ones(len(model), bool)
    for number in range(root.BuffersLength()):
        buffer = root.Buffers(number)
        if buffer.DataLength() > 64:
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            inside[start : start + buffer.DataLength()] = False
    return np.flatnonzero(inside)


def _lengths(model: bytes) -> list[int]:
    """Where the lengths of the vectors are that hold buffers, tensors, operators and shapes."""
    root = _schema().Model.GetRootAs(model)
    graph = root.Subgraphs(0)
    tables = [(root._tab, 6), (root._tab, 8), (root._tab, 12), (graph._tab, 4), (graph._tab, 6), (graph._tab, 10)]
    tables += [(graph.Tensors(number)._tab, 4) for number in range(graph.TensorsLength())]
    return [table.Vector(table.Offset(slot)) - 4 for table, slot in tables if table.Offset(slot)]


def _edited(model: bytes, kind: str, rng: np.random.Generator) -> bytes:
    import flatbuffers

    schema = _schema()
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    graph, signature = tree.subgraphs[0], tree.signatureDefs[0]
    if kind == "no signature":
        other = copy.copy(signature)
        other.signatureKey = "other"
        tree.signatureDefs = [] if rng.random() < 0.5 else [signature, other]
    elif kind == "swapped":
        first, second = signature.outputs
        first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex
    elif kind == "huge tensor":
        tensor = graph.tensors[graph.inputs[0] if rng.random() < 0.5 else graph.outputs[0]]
        tensor.shape = [int(rng.choice((2**31 - 1, 2**16, 10**6)))] * int(rng.integers(2, 6))
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _feed_model(path: Path, kind: str, picture: np.ndarray) -> None:
    # As the commands do it.
    try_model(path, timeout=SECONDS / 2)
    if kind == "bare flips":
        inspect_model(read_flatbuffer(path))
        return
    detector = Detector(path, num_threads=1)
    detector(picture)


def main() -> None:
    what, model, folder, first, last = sys.argv[1:]
    if sys.platform == "linux":
        import resource

        # A picture that asks for more than a board has must not get it.
        resource.setrlimit(resource.RLIMIT_AS, (4 * _GIB, 4 * _GIB))
    warnings.simplefilter("ignore")
    path = Path(folder, f"mutation_{what}_{first}")
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    detector = Detector(model, num_threads=1) if what == "images" else None
    for seed in range(int(first), int(last)):
        kind, content = image_mutation(seed) if what == "images" else model_mutation(seed, Path(model))
        path.write_bytes(content)
        print(f"{seed} {kind}", flush=True)
        signal.alarm(SECONDS)
        try:
            if detector is not None:
                detector(path)
            else:
                _feed_model(path, kind, picture)
            result = "ok"
        except UserError as error:
            result = f"refused: {str(error)!r}"
        signal.alarm(0)
        print(f"{seed} {kind} {result}", flush=True)


if __name__ == "__main__":
    main()
