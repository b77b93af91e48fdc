"""`detect`: find objects in an image or a folder of images; write annotated pictures and detections.json."""

from __future__ import annotations

import argparse
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..cli import printable, run
from ..detections import Detections
from ..detector import Detector
from ..drawing import draw
from ..errors import UserError, os_reason
from ..files import atomic_write, check_target
from ..preprocess import as_rgb_array, load_image

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".h264", ".ts", ".wmv")
JSON_NAME = "detections.json"
# Pictures of these stay JPEG; what was lossless becomes PNG.
JPEG_EXTENSIONS = (".jpg", ".jpeg")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse `argv` (sys.argv without the program's name if None) and detect.

    Raises:
        UserError: something given is wrong. Nothing half-written is left behind.
    """
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of large pictures; what matters becomes an error.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        _detect(arguments)


def console() -> None:
    """The entry point `tinydet-detect`."""
    run(main)


def _detect(arguments: argparse.Namespace) -> None:
    if arguments.tiles is not None:
        raise UserError("--tiles is not there yet; this version looks at a picture as a whole")
    sources = _find_sources(arguments.source)
    output = _check_output(arguments.output, Path(arguments.source))
    detector = Detector(arguments.model, num_threads=arguments.threads, score_threshold=arguments.threshold)
    if len(sources) > 1:
        # Decoded twice, which costs little beside finding out at the last picture that the first ones were in
        # vain.
        for source in sources:
            load_image(source)

    images: list[dict[str, Any]] = []
    drawn_names = _drawn_names(sources)
    for source in sources:
        pixels = as_rgb_array(source)
        detections, timing = detector.timed(pixels)
        encoded = _encode(draw(pixels, detections), drawn_names[source])
        _make_folder(output)
        atomic_write(output / drawn_names[source], encoded)
        images.append(
            {
                "file": source.name,
                "width": pixels.shape[1],
                "height": pixels.shape[0],
                "detections": detections.to_dicts(),
            }
        )
        print(f"{printable(source.name)}: {_summary(detections)}, {timing.total_ms:.1f} ms")
    report = {"model": Path(arguments.model).name, "images": images}
    atomic_write(output / JSON_NAME, (json.dumps(report, indent=2) + "\n").encode())
    pictures = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
    print(f"wrote {pictures} and {JSON_NAME} to {printable(str(output))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Find objects in an image or a folder of images with a TinyDet .tflite. "
        f"Writes an annotated picture for each, and {JSON_NAME}.",
    )
    parser.add_argument("--model", required=True, metavar="X.tflite", help="a model that scripts/export.py made")
    parser.add_argument(
        "--source",
        required=True,
        metavar="IMAGE|DIR",
        help="an image, or a folder whose images are all taken",
    )
    parser.add_argument("--output", default="detections", metavar="DIR", help="where to write (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.3,
        metavar="0..1",
        help="least score of a detection (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores, at most 4")
    parser.add_argument("--tiles", metavar="RxC", help="not there yet")
    return parser


def _find_sources(given: str) -> list[Path]:
    """The images that --source means, sorted by name; at least one."""
    if not given:
        # Path("") is the working directory.
        raise UserError("--source is empty; give an image or a folder of images")
    source = Path(given)
    if source.is_dir():
        try:
            files = [file for file in source.iterdir() if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file()]
        except OSError as error:
            raise UserError(f"{source}: {os_reason(error)}") from error
        if not files:
            raise UserError(f"the folder {source} has no images ({', '.join(IMAGE_EXTENSIONS)})")
        return sorted(files)
    camera = re.fullmatch(r"\d+|\w+://.*|/dev/video\d+", given) is not None
    if (camera and not source.is_file()) or source.suffix.lower() in VIDEO_EXTENSIONS:
        raise UserError(f"--source {given}: videos and cameras are not there yet; give an image or a folder of images")
    if not source.exists():
        raise UserError(f"--source {given}: no such image or folder")
    return [source]


def _check_output(given: str, source: Path) -> Path:
    if not given:
        raise UserError("--output is empty; give a folder ('.' for this one)")
    output = Path(given)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {given} is a file; give a folder")
    if source.is_dir() and output.is_dir() and output.samefile(source):
        # The next run would take the annotated pictures for sources.
        raise UserError(f"--output {given} is the folder of the sources; give another one")
    if output.is_dir():
        check_target(output / JSON_NAME)  # written last, when all the work is done
    return output


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: cannot make this folder ({os_reason(error)})") from error


def _drawn_names(sources: Sequence[Path]) -> dict[Path, str]:
    """A name for each source's annotated picture, no two the same, not even where case does not count."""
    names: dict[Path, str] = {}
    used: set[str] = set()
    for source in sources:
        extension = ".jpg" if source.suffix.lower() in JPEG_EXTENSIONS else ".png"
        name = f"{source.stem}_detected{extension}"
        attempt = 1
        while name.casefold() in used:
            # First a.jpeg beside a.jpg -> a.jpeg_detected.jpg, which says where it is from.
            again = "" if attempt == 1 else f"_{attempt}"
            name = f"{source.name}_detected{again}{extension}"
            attempt += 1
        used.add(name.casefold())
        names[source] = name
    return names


def _encode(picture: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".jpg"):
        # Full colour resolution: thin coloured outlines smear otherwise.
        picture.save(buffer, "JPEG", quality=92, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def _summary(detections: Detections) -> str:
    """ "3 objects (2 person, 1 dog)" """
    if not len(detections):
        return "no objects"
    counts = ", ".join(f"{count} {printable(name)}" for name, count in Counter(detections.names).most_common())
    return f"{len(detections)} object{'s' if len(detections) > 1 else ''} ({counts})"
