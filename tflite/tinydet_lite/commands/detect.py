"""`detect`: find objects in images, a video or a camera's pictures; write annotated ones, and what was found."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..accelerated import ACCELERATORS
from ..cli import run
from ..detector import Detector
from ..errors import UserError, printable
from ..files import check_target
from ..guard.trial import try_unknown
from ..media.classes import class_ids_of
from ..media.fonts import check_font, font_for, unwritable, written
from ..media.sources import ImageFiles, Problem, Source, open_source
from ..media.stream import AnyDetector, Meter, detect_frames
from ..media.writers import (
    Behind,
    CocoResults,
    CsvTable,
    DrawnPictures,
    DrawnVideo,
    JsonLines,
    JsonReport,
    Writer,
    YoloLabels,
    file_stem,
    image_ids,
)
from ..metadata import DEFAULT_THRESHOLD
from ..models import DIGITS, SHIPPED, model_file
from ..tiles import TiledDetector
from .progress import Progress
from .stopping import StopSignals
from .tile_options import add_tile_options, tile_arguments

FORMATS = ("json", "coco", "yolo", "csv")
JSON_NAME = "detections.json"
JSON_LINES_NAME = "detections.jsonl"
COCO_NAME = "coco.json"
CSV_NAME = "detections.csv"
YOLO_NAME = "labels"
_LABELS_TOLD = 5
WITHOUT_MODEL = (
    "No --model given: TinyDet-S for handwritten digits, which comes with tinydet-lite. --model X.tflite takes yours."
)


class OpenModel(Protocol):
    """Gives the Detector of what --model names; None for the arguments that were not given."""

    def __call__(
        self, model: Path, *, num_threads: int | None, score_threshold: float | None, accelerator: str
    ) -> Detector: ...


def open_tflite(model: Path, *, num_threads: int | None, score_threshold: float | None, accelerator: str) -> Detector:
    """A .tflite, tried in a process of its own first unless it comes with the package."""
    try_unknown(model)
    return Detector(model, num_threads=num_threads, score_threshold=score_threshold, accelerator=accelerator)


def main(argv: Sequence[str] | None = None, *, open_model: OpenModel = open_tflite) -> None:
    """Parse `argv` (sys.argv without the program's name if None) and detect.

    Args:
        open_model: another way to a Detector, for what is no .tflite.

    Raises:
        UserError: something given is wrong, or a part of the source could not be read; what was done by then
        is kept, and nothing half-written is left behind.
    """
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of large pictures; what matters becomes an error.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        _detect(arguments, open_model)


def console() -> None:
    """The entry point `tinydet-detect`."""
    run(main)


@dataclass(frozen=True)
class _Output:
    writer: Writer
    said: str  # in "wrote ..."


def _detect(arguments: argparse.Namespace, open_model: OpenModel) -> None:
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise UserError(f"--max-frames {arguments.max_frames} came; expected at least 1")
    tiles = tile_arguments(arguments)
    if arguments.font is not None:
        check_font(arguments.font)
    source = open_source(arguments.source)
    folder = _check_output(arguments.output, source)
    if arguments.model is None:
        arguments.model = DIGITS
        print(WITHOUT_MODEL)
    model = open_model(
        arguments.model,
        num_threads=arguments.threads,
        score_threshold=arguments.threshold,
        accelerator=arguments.accelerator,
    )
    if arguments.threshold is None and model.info.suggested_threshold is not None:
        print(f"Detections score at least {model.score_threshold:g}, as the model itself suggests (--threshold T).")
    class_ids = None if arguments.classes is None else class_ids_of(arguments.classes, model.labels)
    detector: AnyDetector = model if tiles is None else TiledDetector(model, **tiles)
    outputs = _outputs(arguments, source, folder, model)
    for output in outputs:
        foreign = output.writer.foreign()
        if foreign is not None:
            raise UserError(
                f"{foreign} would be replaced, and detect has not written it; give another --output, or move it away"
            )

    meter = Meter()
    progress = Progress(meter, source.still, source.count)
    if not arguments.no_drawn:
        labels = model.labels if class_ids is None else [model.labels[class_id] for class_id in class_ids]
        _tell_unwritable(unwritable(dict.fromkeys(labels), arguments.font), arguments.font, progress)
    lost = found = 0
    with StopSignals() as stop:
        try:
            with ExitStack() as stack:
                for output in outputs:
                    stack.callback(output.writer.close)
                items = stack.enter_context(
                    closing(
                        detect_frames(
                            source,
                            detector,
                            class_ids=class_ids,
                            max_frames=arguments.max_frames,
                            stop=stop,
                            meter=meter,
                        )
                    )
                )
                stack.callback(stop.finishing)
                for item in items:
                    if isinstance(item, Problem):
                        lost += item.lost
                        progress.note(item.message)
                        continue
                    for output in outputs:
                        output.writer.write(item)
                    progress.show(item)
                    found += len(item.detections)
        except UserError as error:
            progress.finish(source.live)
            there = meter.frames and folder.is_dir() and any(folder.iterdir())
            kept = f"; what was done before is in {folder}" if there else ""
            raise UserError(f"{error}{kept}") from error
        progress.finish(source.live)
        if meter.frames:
            print(f"wrote {_listed([output.said for output in outputs])} to {printable(str(folder))}")
            if not found and model.score_threshold > 0:
                print(f"Nothing scored {model.score_threshold:g} or more; --threshold T shows what scores less.")
        if isinstance(source, ImageFiles) and source.passed_over:
            print(printable(source.passed_over))
    stop.pass_on()
    if lost:
        raise UserError(_loss(source, lost, meter.frames, folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Find objects in images, a video or a camera's pictures with a TinyDet .tflite. Writes annotated "
        f"pictures or an annotated video, and what was found: {JSON_NAME} for images, {JSON_LINES_NAME} (a line a "
        "frame) for videos and cameras.",
        epilog="Exit code: 0 done; 2 wrong input, or a part of it could not be read (the rest is done); 130 Ctrl-C, "
        "143 SIGTERM, 129 SIGHUP (what was done is kept). Videos and cameras need OpenCV: "
        "pip install opencv-python-headless.",
    )
    parser.add_argument(
        "--model",
        type=model_file,
        metavar="X.tflite",
        help=f"what tinydet export made, or one that comes with tinydet-lite: {', '.join(SHIPPED)} (default: digits)",
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="SOURCE",
        help="an image, also http(s)://.../a.jpg; a folder, whose images are all taken; a video; a camera: its number, "
        "/dev/videoN or a URL (rtsp://, http://, ...)",
    )
    parser.add_argument("--output", default="detections", metavar="DIR", help="where to write (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="0..1",
        help=f"least score of a detection (default: what the model's file suggests, else {DEFAULT_THRESHOLD})",
    )
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="names or ids; only these are kept")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores, at most 4")
    parser.add_argument(
        "--accelerator",
        choices=ACCELERATORS,
        default="cpu",
        help="gpu and npu: where ai-edge-litert finds one; the CPU runs what that does not take (default: cpu)",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N pictures or frames")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=["json"],
        metavar="F",
        help=f"of what was found, one or several: json; coco ({COCO_NAME}); yolo ({YOLO_NAME}/*.txt); "
        f"csv ({CSV_NAME}); default: json",
    )
    parser.add_argument("--no-drawn", action="store_true", help="no annotated pictures or video")
    parser.add_argument(
        "--font", metavar="FILE", help="TrueType, for the labels (default: one that has their letters, if there is one)"
    )
    add_tile_options(parser)
    return parser


def _check_output(given: str, source: Source) -> Path:
    if not given:
        raise UserError("--output is empty; give a folder ('.' for this one)")
    output = Path(given)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {given} is a file; give a folder")
    sources = source.folder if isinstance(source, ImageFiles) else None
    if sources is not None and output.is_dir() and output.samefile(sources):
        # The next run would take the annotated pictures for sources.
        raise UserError(f"--output {given} is the folder of the sources; give another one")
    return output


def _outputs(arguments: argparse.Namespace, source: Source, folder: Path, detector: Detector) -> list[_Output]:
    names = source.names
    outputs = []
    # Numbers before pictures: they are on the disk first.
    for name in dict.fromkeys(arguments.format):
        if name == "coco":
            ids = None if names is None else image_ids(names)
            coco = CocoResults(_checked(folder / COCO_NAME), detector.info.category_ids, ids)
            outputs.append(_Output(coco, COCO_NAME))
        elif name == "yolo":
            outputs.append(_Output(YoloLabels(folder / YOLO_NAME, names, source.name), f"{YOLO_NAME}/*.txt"))
        elif name == "csv":
            outputs.append(_Output(CsvTable(_checked(folder / CSV_NAME)), CSV_NAME))
        elif names is None:
            outputs.append(_Output(JsonLines(_checked(folder / JSON_LINES_NAME), source.live), JSON_LINES_NAME))
        else:
            report = JsonReport(_checked(folder / JSON_NAME), Path(arguments.model).name)
            outputs.append(_Output(report, JSON_NAME))
    if arguments.no_drawn:
        return outputs
    if names is None:
        drawn = f"{file_stem(source.name)}_detected.mp4"
        video = DrawnVideo(_checked(folder / drawn), source.rate, source.live, arguments.font)
        return [*outputs, _Output(Behind(video), drawn)]
    return [*outputs, _Output(Behind(DrawnPictures(folder, names, arguments.font)), "the annotated pictures")]


def _tell_unwritable(labels: Sequence[str], font: str | None, progress: Progress) -> None:
    if not labels:
        return
    shown = ", ".join(f"{label!r}" for label in labels[:_LABELS_TOLD]) + (", ..." if len(labels) > _LABELS_TOLD else "")
    lacking = "no font here has all" if font is None else f"{font} lacks"
    drawn = written(labels[0], font_for(labels[0]) if font is None else font)
    advice = "--font FILE takes one that has them" if font is None else "give another --font"
    progress.note(f"{lacking} letters of {shown}; {labels[0]!r} is drawn as {drawn}; {advice}")


def _checked(path: Path) -> Path:
    """A file that could not be written is refused before the work. The folder may be made later."""
    return check_target(path) if path.parent.is_dir() else path


def _loss(source: Source, lost: int, done: int, folder: Path) -> str:
    if not source.still:
        return f"{source.name} is not whole; what came of it is done, in {folder}"
    if done == 0:
        return f"none of the {lost} images could be read"
    return f"{lost} of {lost + done} images could not be read; the others are done, in {folder}"


def _listed(things: Sequence[str]) -> str:
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
