"""What a TinyDet .tflite says about itself, and the checks before an interpreter may see it.

Behind the flatbuffer lies an uncompressed ZIP (TFLite's associated files: `unzip` reads it too) with two
members: labels.txt, one class name a line, class 0 first, which is also where the TFLite metadata inside a
file of --postprocess tasks says that the labels are; and tinydet.json, the fields of `ModelInfo`. It carries
the flatbuffer's length and SHA-256, because interpreters do not check what they load: they crash on damaged
files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError, os_reason, shortened
from .files import PathLike

FORMAT_VERSION = 1
LABELS_MEMBER = "labels.txt"
INFO_MEMBER = "tinydet.json"
POSTPROCESS = ("host", "tasks")

IDENTIFIER = b"TFL3"  # flatbuffers put the schema's identifier at bytes 4 to 8
_MAX_MEMBER_BYTES = 4 << 20  # thousands of classes fit many times over; a forged size does not
_MAX_INPUT_SIZE = 8192
# ZIP cannot leave the time out; a fixed one makes the same model the same file.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# zipfile checks little before it parses, so damage shows as any of these.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError, LookupError, EOFError, RuntimeError,
    OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
_REMAKE = "make it again with tinydet export"


@dataclass(frozen=True)
class NmsSettings:
    """The numbers of `postprocess.soft_nms` that a model was evaluated with.

    Attributes:
        score_threshold: candidates score more than this, before any decay.
        iou_threshold: overlap above which a score decays, in [0, 1].
        min_score: a score below this is dropped, at any time.
        max_detections: the most that a picture may have.
    """

    score_threshold: float = 0.01
    iou_threshold: float = 0.5
    min_score: float = 1e-3
    max_detections: int = 100


#: The published detectors'.
RELEASED = NmsSettings()
#: The least score of a detection where neither the user nor the file names one.
DEFAULT_THRESHOLD = 0.3


@dataclass(frozen=True)
class ModelInfo:
    """tinydet.json.

    Attributes:
        variant: S, M or L.
        input_size: S, pixels of a side.
        num_classes: C, without the background.
        category_ids: the dataset's category id of each class, C of them.
        producer: what wrote the file, "tinydet-tf 0.1.0".
        postprocess: "host": outputs `boxes` and `class_probs`, soft-NMS is ours; "tasks": MediaPipe's four
            outputs.
        quantization: "float32", "float16", "dynamic", "int8", ...
        calibration: which images a model in int8 or int16 took its ranges from, in words; "" for the others.
        data_set: the name of the set that it was trained on where training names it ("digits"); "" for all others.
        nms: defaults for the host's soft-NMS.
        suggested_threshold: the least score of a detection that gave the best F1 on the validation images, in [0, 1];
            None where nobody measured it, as in files from before there was one.
        model_bytes: length of the flatbuffer in front. `append_metadata` fills it in.
        model_sha256: its hex digest. `append_metadata` fills it in.
        format_version: of tinydet.json.
    """

    variant: str
    input_size: int
    num_classes: int
    category_ids: tuple[int, ...]
    producer: str
    postprocess: str = "host"
    quantization: str = "float32"
    calibration: str = ""
    data_set: str = ""
    nms: NmsSettings = RELEASED
    suggested_threshold: float | None = None
    model_bytes: int = 0
    model_sha256: str = ""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class ModelFile:
    """A checked file: what it says, its C class names, and the flatbuffer alone."""

    info: ModelInfo
    labels: tuple[str, ...]
    model: bytes = dataclasses.field(repr=False)


def default_threshold(info: ModelInfo) -> float:
    """The least score of a detection unless the user names one: what the file suggests, else DEFAULT_THRESHOLD."""
    return DEFAULT_THRESHOLD if info.suggested_threshold is None else info.suggested_threshold


def is_label(name: str) -> bool:
    """Whether labels.txt can hold a class name: one line, not empty, without space around it, valid Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return name.strip() == name and name.splitlines() == [name]


def append_metadata(model: bytes, info: ModelInfo, labels: Sequence[str]) -> bytes:
    """Put labels.txt and tinydet.json behind a flatbuffer.

    The same arguments give the same bytes.

    Args:
        model: a .tflite without TinyDet's members.
        info: all but model_bytes and model_sha256, which are computed here.
        labels: C class names, class 0 first.

    Raises:
        UserError: `model` is not a .tflite, a label is none (`is_label`), or the fields contradict each other.
    """
    if model[4:8] != IDENTIFIER:
        raise UserError(f"the model to put metadata on is no .tflite: no {IDENTIFIER.decode()} at byte 4")
    for class_id, label in enumerate(labels):
        if not is_label(label):
            raise UserError(
                f"class {class_id} is named {shortened(repr(label), 60)}; "
                "expected one line of valid text, not empty, without space around it"
            )
    info = dataclasses.replace(info, model_bytes=len(model), model_sha256=hashlib.sha256(model).hexdigest())
    members = {
        LABELS_MEMBER: "".join(f"{label}\n" for label in labels),
        INFO_MEMBER: json.dumps(dataclasses.asdict(info), indent=2, sort_keys=True) + "\n",
    }
    buffer = io.BytesIO()
    buffer.write(model)
    # Mode "w" on a buffer starts where it stands, and counts offsets from the buffer's beginning, as readers
    # expect.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, text in members.items():
            member = zipfile.ZipInfo(name, _ZIP_TIME)
            member.create_system = 3  # Unix, wherever this runs
            member.external_attr = 0o644 << 16
            archive.writestr(member, text.encode())
    content = buffer.getvalue()
    parse_model(content, "the model with its metadata")
    return content


def read_bytes(path: PathLike) -> bytes:
    """A model file as it is, unchecked.

    Raises:
        UserError: no such file, a folder, or it cannot be read.
    """
    file = Path(path)
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such model file") from error
    except IsADirectoryError as error:
        raise UserError(f"{file} is a folder; a .tflite file was expected") from error
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from error


def read_model(path: PathLike) -> ModelFile:
    """Read a TinyDet .tflite and check it.

    Raises:
        UserError: as `read_bytes` or `parse_model`.
    """
    return parse_model(read_bytes(path), str(Path(path)))


def parse_model(content: bytes, name: str) -> ModelFile:
    """Check a whole file's bytes and take it apart.

    Args:
        content: the file.
        name: how errors call it.

    Raises:
        UserError: empty, no .tflite, no TinyDet members, damaged or truncated, or fields that contradict each
        other.
    """
    if not content:
        raise UserError(f"{name} is empty; expected a .tflite")
    if content[4:8] != IDENTIFIER:
        raise UserError(f"{name} is not a .tflite (no {IDENTIFIER.decode()} at byte 4)")
    members = _read_members(content, name)
    info = _parse_info(members[INFO_MEMBER], name)
    labels = _parse_labels(members[LABELS_MEMBER], name)
    if len(labels) != info.num_classes:
        raise UserError(f"{name} has {len(labels)} labels for {info.num_classes} classes; {_REMAKE}")
    model = content[: info.model_bytes]
    if len(model) != info.model_bytes or hashlib.sha256(model).hexdigest() != info.model_sha256:
        raise UserError(f"{name} is damaged: the model is not the one that its SHA-256 was taken of; {_REMAKE}")
    return ModelFile(info, labels, model)


def _read_members(content: bytes, name: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {}
            for member in archive.infolist():
                if member.filename in (LABELS_MEMBER, INFO_MEMBER):
                    if member.file_size > _MAX_MEMBER_BYTES:
                        raise UserError(f"{name} is damaged: {member.filename} claims {member.file_size} bytes")
                    found[member.filename] = archive.read(member)  # checks the CRC
    except UserError:
        raise
    except _ZIP_ERRORS as error:
        # BadZipFile of a file without any archive says "File is not a zip file", which would only mislead.
        if isinstance(error, zipfile.BadZipFile) and b"PK\x05\x06" not in content:
            raise UserError(_not_tinydet(name)) from error
        raise UserError(f"{name} is damaged: its metadata cannot be read ({error}); {_REMAKE}") from error
    if len(found) != 2:
        raise UserError(_not_tinydet(name))
    return found


def _not_tinydet(name: str) -> str:
    return f"{name} is not a TinyDet file, or its end is missing; make one with tinydet export"


def _parse_labels(data: bytes, name: str) -> tuple[str, ...]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {LABELS_MEMBER} is not UTF-8; {_REMAKE}") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    labels = tuple(line.strip() for line in lines)
    if not all(labels):
        raise UserError(f"{name}: {LABELS_MEMBER} has an empty line; {_REMAKE}")
    return labels


def _parse_info(data: bytes, name: str) -> ModelInfo:
    where = f"{name}: {INFO_MEMBER}"
    try:
        fields = json.loads(data.decode())
    # A nesting deeper than Python's stack is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); {_REMAKE}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where} is not a JSON object; {_REMAKE}")
    version = _integer(fields, "format_version", where, 1)
    if version != FORMAT_VERSION:
        raise UserError(f"{where} has format {version}, this tinydet-lite reads {FORMAT_VERSION}; update tinydet-lite")
    num_classes = _integer(fields, "num_classes", where, 1)
    ids = _checked(fields, "category_ids", where, lambda v: isinstance(v, list) and all(map(_is_integer, v)),
                   "a list of integers")  # fmt: skip
    if len(ids) != num_classes or len(set(ids)) != num_classes:
        count = f"{len(ids)} category_ids ({len(set(ids))} different)"
        raise UserError(f"{where}: {count} for {num_classes} classes; {_REMAKE}")
    nms = _checked(fields, "nms", where, lambda v: isinstance(v, dict), "an object")
    texts = {key: _text(fields, key, where) for key in ("variant", "producer", "quantization")}
    # Files of earlier versions have none of these, nor a suggested threshold.
    texts |= {key: _text(fields, key, where) for key in ("calibration", "data_set") if fields.get(key)}
    return ModelInfo(
        input_size=_integer(fields, "input_size", where, 1, _MAX_INPUT_SIZE),
        num_classes=num_classes,
        category_ids=tuple(ids),
        postprocess=_checked(
            fields, "postprocess", where, POSTPROCESS.__contains__, f"one of {', '.join(POSTPROCESS)}"
        ),
        nms=NmsSettings(
            **{key: _fraction(nms, key, where) for key in ("score_threshold", "iou_threshold", "min_score")},
            max_detections=_integer(nms, "max_detections", where, 1),
        ),
        suggested_threshold=(
            None if fields.get("suggested_threshold") is None else _fraction(fields, "suggested_threshold", where)
        ),
        model_bytes=_integer(fields, "model_bytes", where, 8),
        model_sha256=_checked(
            fields, "model_sha256", where, lambda v: bool(re.fullmatch("[0-9a-f]{64}", str(v))), "64 hex digits"
        ),
        format_version=version,
        **texts,
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked(fields: dict[str, Any], key: str, where: str, fits: Callable[[Any], bool], wanted: str) -> Any:
    value = fields.get(key)
    if not fits(value):
        came = "missing" if value is None else shortened(repr(value), 60)
        raise UserError(f"{where}: {key} is {came}; expected {wanted}; {_REMAKE}")
    return value


def _integer(fields: dict[str, Any], key: str, where: str, low: int, high: int = 2**53) -> int:
    def fits(value: Any) -> bool:
        return _is_integer(value) and low <= value <= high

    return int(_checked(fields, key, where, fits, f"an integer from {low} to {high}"))


def _fraction(fields: dict[str, Any], key: str, where: str) -> float:
    def fits(value: Any) -> bool:
        # NaN, which Python's JSON knows, is not between 0 and 1 either.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0

    return float(_checked(fields, key, where, fits, "a number from 0 to 1"))


def _text(fields: dict[str, Any], key: str, where: str) -> str:
    return str(_checked(fields, key, where, lambda v: isinstance(v, str) and bool(v), "a text"))
