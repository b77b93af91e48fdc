"""Find objects in images, videos and cameras: tinydet_lite's command, which here takes a run, too."""

from __future__ import annotations

from pathlib import Path

from tinydet_lite.commands import detect
from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_tf.run_files import is_run


def open_model(model: Path, *, num_threads: int | None, score_threshold: float | None, accelerator: str) -> Detector:
    """A .tflite as tinydet_lite opens it; a RUN folder or a weights file in Keras."""
    if not is_run(model):
        return detect.open_tflite(
            model, num_threads=num_threads, score_threshold=score_threshold, accelerator=accelerator
        )
    if accelerator != "cpu":
        raise UserError(f"--accelerator {accelerator} is for a .tflite, and {model} is none; export it first")
    from tinydet_tf.keras_detector import open_detector  # it needs TensorFlow

    return open_detector(model, num_threads=num_threads, score_threshold=score_threshold)


def main() -> None:
    detect.main(open_model=open_model)
