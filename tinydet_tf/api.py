"""The commands as functions: what `tinydet train`, `evaluate` and `export` do, and a trained model on a picture.

from tinydet_tf import api

api.train(data="my_set", output="runs/mine", settings={"train.epochs": 50})
detections = api.load_detector("runs/mine").predict("street.jpg")
print(api.evaluate("runs/mine").metrics["AP"])
api.export("runs/mine", "mine_int8.tflite", format="int8")
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinydet_lite.errors import UserError
from tinydet_lite.metadata import read_model
from tinydet_tf.config import Config, DataConfig, assignment, load_config
from tinydet_tf.data.splits import data_of, load_split
from tinydet_tf.evaluation import Evaluation
from tinydet_tf.evaluation import evaluate as evaluate_detector
from tinydet_tf.export.calibration import (
    DEFAULT_IMAGES,
    calibration_data,
    calibration_file,
    load_calibration_images,
    write_calibration,
)
from tinydet_tf.export.convert import check_output, write_tflite
from tinydet_tf.export.convert import export as export_network
from tinydet_tf.export.kept_calibration import kept_calibration
from tinydet_tf.export.quantize import Quantized
from tinydet_tf.export.schemes import scheme_named
from tinydet_tf.keras_detector import open_detector as load_detector
from tinydet_tf.run_files import is_run, model_path
from tinydet_tf.weights import load_detector as load_network
from tinydet_tf.weights import read_config, read_threshold, weights_file

__all__ = ["Exported", "evaluate", "export", "load_detector", "train"]


def train(
    config: Config | str | Path | None = None,
    *,
    output: str | Path,
    variant: str | None = None,
    data: str | Path | None = None,
    init: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    verbose: int = 1,
) -> dict[str, Any]:
    """Trains on one device, as `tinydet train` does, and leaves a run folder.

    Args:
      config: a configuration, a YAML file, or the name of one in configs/; None for the defaults.
      output: the run folder.
      variant: S, M or L; None for the configuration's.
      data: a data set's folder (docs/data.md), or "digits"; None for the configuration's.
      init: RUN or WEIGHTS to start from: what matches by name and shape.
      resume: go on with the run in `output`, with its own configuration and data.
      overwrite: replace a run that is there.
      settings: configuration keys and values, such as {"train.epochs": 50}.
      verbose: 0 prints nothing, 1 a line an epoch.

    Returns:
      {"last": {...}, "best": {...}}: a line of metrics.json's history each.

    Raises:
      UserError: as `training.run.train.train`, or a wrong configuration.
    """
    # Here alone: who evaluates and exports needs nothing of training.
    from tinydet_tf.training.run.folder import resumed_config
    from tinydet_tf.training.run.train import train as train_run

    folder = Path(output)
    assignments = [
        assignment(key, value) if isinstance(value, str) else f"{key}={json.dumps(value)}"  # json is YAML
        for key, value in (settings or {}).items()
    ]
    if resume:
        if config is not None or variant is not None or data is not None or init is not None:
            raise UserError("resume goes on with the run's own configuration and data; give output and settings alone")
        config = resumed_config(folder, assignments)
    else:
        given = [] if data is None else [assignment("data.root", str(data))]
        base = config if isinstance(config, Config) else None
        file = None if config is None or isinstance(config, Config) else Path(config)
        config = load_config(file, variant=variant, assignments=[*given, *assignments], base=base)
    start = None if init is None else weights_file(init)
    return train_run(config, folder, init=start, resume=resume, overwrite=overwrite, verbose=verbose)


def evaluate(
    model: str | Path,
    data: DataConfig | str | Path | None = None,
    *,
    split: str = "val",
    limit: int | None = None,
    variant: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """COCO's twelve numbers of a model, as `tinydet evaluate` prints them.

    Args:
      model: RUN, WEIGHTS, a .tflite, or the name of a model that comes along.
      data: a data set's folder, or "digits"; None for what the model was trained on.
      split: "train", "val", "test", or "all" of a set without splits.
      limit: the first images only.
      variant: needed only for weights that do not say theirs.
      progress: show a bar on a terminal.

    Raises:
      UserError: the model or the data cannot be used, or they do not belong together.
    """
    path = model_path(model)
    if not isinstance(data, DataConfig):
        data = data_of_model(path) if data is None else DataConfig(root=str(data))
    dataset = load_split(dataclasses.replace(data, limit=limit), split)
    detector = load_detector(path, variant=variant, score_threshold=0.0)
    return evaluate_detector(
        detector, detector.labels, dataset, category_ids=detector.info.category_ids, progress=progress
    )


def data_of_model(model: Path) -> DataConfig:
    """What a model was trained on.

    Raises:
      UserError: it does not say, or it is no model.
    """
    if is_run(model):
        return data_of(read_config(weights_file(model)) or Config(), model)
    info = read_model(model).info
    if not info.data_set:
        raise UserError(
            f"{model} does not say what data it was trained on; give --data DIR (--data digits if it was the embedded "
            "set)"
        )
    return DataConfig(root=info.data_set)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
      path: the .tflite.
      config: of the model.
      quantized: the file's bytes, and what an integer format was calibrated with.
      threshold: the score threshold in the file; None: none.
    """

    path: Path
    config: Config
    quantized: Quantized
    threshold: float | None


def export(
    model: str | Path,
    output: str | Path,
    *,
    format: str = "float32",
    postprocess: str = "host",
    picture_size: tuple[int, int] | None = None,
    threshold: float | None = None,
    proposals: int | None = None,
    data: str | None = None,
    split: str | None = None,
    calibration_images: int | None = None,
    seed: int | None = None,
    variant: str | None = None,
    progress: bool = False,
) -> Exported:
    """Writes a run or weights file as one .tflite that needs builtin operators only, as `tinydet export` does.

    Args:
      model: RUN or WEIGHTS.
      output: the .tflite; what an integer format was calibrated with is written beside it.
      format: float32, float16, dynamic, int8 or int16.
      postprocess: "host", or "tasks" with soft-NMS inside (docs/tasks.md).
      picture_size: (W, H) in pixels, of tasks: the pictures whose boxes shall be exact to the pixel.
      threshold: the score from which the file's user sees detections; None for the one that training measured.
      proposals: how many boxes the second stage looks at; None for those of the run (200).
      data, split, calibration_images, seed: which images int8 and int16 take their ranges from; None for 128 of what
        the run was trained on, "train", and 0. Where all are None, a quantization-aware run's own calibration is taken.
      variant: needed only for weights that do not say theirs.
      progress: show a bar on a terminal while calibrating.

    Raises:
      UserError: the model, an argument or the images cannot be used, or the file cannot be written.
    """
    path = Path(output)
    check_output(path)
    network, config = load_network(model, variant=variant, proposals=proposals)
    threshold = read_threshold(model) if threshold is None else threshold
    scheme, samples, kept = scheme_named(format), None, None
    chosen = {"data": data, "split": split, "calibration-images": calibration_images, "seed": seed}
    given = [f"--{name}" for name, value in chosen.items() if value is not None]
    if given and not scheme.integer:
        raise UserError(f"{' and '.join(given)} choose images for --format int8 and int16; {format} needs none")
    if format == "int8" and not given:
        kept = kept_calibration(Path(model))  # of a quantization-aware run
    if scheme.integer and kept is None:
        dataset = load_split(calibration_data(config, data, Path(model)), split or "train")
        count = DEFAULT_IMAGES if calibration_images is None else calibration_images
        samples = load_calibration_images(dataset, config.model.input_size, count=count, seed=seed or 0)
    quantized = export_network(
        network,
        config,
        scheme,
        postprocess=postprocess,
        picture_size=picture_size,
        samples=samples,
        kept=kept,
        suggested_threshold=threshold,
        progress=progress,
    )
    write_tflite(quantized.model, path)
    if quantized.calibration is not None:
        write_calibration(quantized.calibration, calibration_file(path))
    else:
        calibration_file(path).unlink(missing_ok=True)  # of the file that was replaced
    return Exported(path, config, quantized, threshold)
