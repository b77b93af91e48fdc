"""The last words of a run: how good it is, where it is, and what to do with it, as commands to paste."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tinydet_tf.commands import command_words
from tinydet_tf.config import Config
from tinydet_tf.training.run.console import average_precisions, shown
from tinydet_tf.training.run.folder import LOGS


def closing(folder: Path, config: Config, result: dict[str, Any], seconds: float) -> str:
    """What train prints at the end.

    Args:
      folder: of the run.
      config: of the run.
      result: what `train` returned.
      seconds: that it took.
    """
    lines = []
    for which in ("best", "last"):
        entry = result[which]
        if entry:
            measured = ", ".join([*average_precisions(entry), *best_f1(entry)]) or "not validated"
            lines.append(f"{which.capitalize()} epoch {entry['epoch']}: {measured}")
    lines += [f"The run is in {folder}; this took {shown(seconds)}. Next:"]
    return "\n".join(lines + [f"  {command}" for command in next_commands(folder, config)])


def best_f1(entry: dict[str, Any]) -> list[str]:
    """['F1 0.712 from a score of 0.42'], or nothing where no object was found."""
    if entry.get("val_threshold") is None:
        return []
    return [f"F1 {entry['val_F1']:.3f} from a score of {entry['val_threshold']:g}"]


def next_commands(folder: Path, config: Config) -> list[str]:
    """For a shell in the same folder: evaluate what the run was validated on, export it, look at its logs."""
    data = config.data
    split = "train" if data.validate_on_train else "val"
    annotations, images = getattr(data, f"{split}_json"), getattr(data, f"{split}_images")
    evaluate = [*command_words("evaluate"), "--model", str(folder)]
    if annotations is not None:
        evaluate += ["--annotations", annotations, "--images", images]
    elif data.root is not None:
        evaluate += ["--data", data.root]
        evaluate += [] if data.voc_first_pixel else ["--voc-first-pixel", "0"]
    if split != "val":
        evaluate += ["--split", split]
    if data.limit is not None:
        evaluate += ["--limit", str(data.limit)]
    export = [*command_words("export"), "--model", str(folder), "--output", str(folder / "model.tflite")]
    if config.train.qat:
        export += ["--format", "int8"]
    return [shlex.join(command) for command in (evaluate, export, ["tensorboard", "--logdir", str(folder / LOGS)])]
