"""What commands there are, and how the user calls them: as `tinydet NAME`, or as a file of scripts/ from a checkout.

Needs no other module, so that `tinydet --help` and every message can name commands.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

#: name -> what it does, in one line, in the order of `tinydet --help`.
COMMANDS = {
    "train": "train on your images, or on the embedded digits set",
    "evaluate": "COCO's twelve numbers of a run, a weights file or a .tflite",
    "export": "write a run as one .tflite that needs builtin operators only",
    "detect": "find objects in images, videos and cameras with a .tflite",
    "benchmark": "time .tflite files side by side",
    "profile": "time each operator of a .tflite",
    "convert-dataset": "convert Pascal VOC or YOLO data to COCO's json, and make a val split",
    "make-digits": "make the embedded digits set, and say where it is",
    "show-batch": "draw a training batch as the network sees it",
    "anchor-coverage": "which objects no anchor is trained on, and better anchors for them",
    "pretrain-backbone": "train a backbone as a classifier, to start from",
    "import-checkpoint": "turn the authors' PyTorch weights into Keras weights",
    "import-backbone": "turn others' ImageNet weights into a backbone to start from",
    "run-experiments": "train the rows of a plan with every seed, and compare them",
    "quantize-experiments": "compare quantization schemes of one model",
    "doctor": "what this machine and installation can do: for a bug report",
    "count-madds": "count multiply-accumulates, parameters and memory beside the paper's tables",
    "receptive-field": "measure where each pyramid level looks",
    "benchmark-training": "time a training step and its parts",
    "benchmark-input": "time the input pipeline of training",
}
#: The form without the installed entry point.
MODULE = "python -m tinydet_tf"


def module_of(name: str) -> str:
    """The command's module in tinydet_tf/cli/, and its file's name in scripts/, without the ending."""
    # scripts/profile.py would hide the standard library's from the other scripts.
    return "profile_tflite" if name == "profile" else name.replace("-", "_")


def command_words(name: str) -> list[str]:
    """The beginning of a command line that runs another command, in the form in which the user called this one.

    Args:
      name: one of COMMANDS.

    Returns:
      ["python", "scripts/train.py"] in a program that was called as scripts/export.py, in the folder that it was called
      in; ["python", "-m", "tinydet_tf", "train"] after `python -m tinydet_tf`; otherwise ["tinydet", "train"].
    """
    script = _script()
    if script is not None:
        return ["python", str(script.with_name(module_of(name) + ".py"))]
    return [*(MODULE if sys.argv[0].startswith(MODULE) else "tinydet").split(), name]


def command_text(name: str) -> str:
    """`command_words` as text for a shell."""
    return shlex.join(command_words(name))


def child_command(name: str) -> list[str]:
    """What starts the command in a process of its own; what that prints has the same form as here."""
    script = _script()
    if script is not None:
        return [sys.executable, str(script.with_name(module_of(name) + ".py"))]
    entry = "module" if sys.argv[0].startswith(MODULE) else "console"
    return [sys.executable, "-c", f"from tinydet_tf.cli.main import {entry}; {entry}()", name]


def _script() -> Path | None:
    """The file of scripts/ that this program is."""
    path = Path(sys.argv[0])
    return path if path.suffix == ".py" and path.stem in map(module_of, COMMANDS) else None
