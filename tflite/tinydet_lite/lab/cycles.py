"""Reads a count of a model's cycles on other processors than this one: estimates, made elsewhere, as a json.

The json is a list of dicts, one a model and processor: "model" (a file's name), "cpu", "instructions", "cycles",
"milliseconds" (all data in the first cache), "board_milliseconds" (as on the board), and "code" (kind of kernel -> its
share of the cycles, 0 to 1).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, shortened
from ..files import PathLike


@dataclass(frozen=True)
class CycleCount:
    """One model on one processor, one thread.

    Attributes:
        cpu: the processor, "cortex-a72".
        instructions, cycles: of one run of the network.
        board_milliseconds: what that may take on a board with this processor.
        code: the cycles of each kind of kernel.
    """

    cpu: str
    instructions: int
    cycles: int
    board_milliseconds: float
    code: dict[str, float]


def read_cycles(path: PathLike, model: PathLike) -> list[CycleCount]:
    """The counts of one model in a json, in its order.

    Args:
        path: of the json.
        model: the .tflite; its name has to be one of those in the json.

    Raises:
        UserError: the json cannot be read, is none of this form, or does not have the model.
    """
    name = Path(model).name
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected the json of a count of cycles") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no json of a count of cycles ({shortened(str(error))})") from error
    try:
        mine = [_count(entry) for entry in entries if Path(str(entry["model"])).name == name]
        others = sorted({Path(str(entry["model"])).name for entry in entries})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no count of cycles ({type(error).__name__}: {shortened(str(error))})") from error
    if not mine:
        raise UserError(f"{path} has no count of {name}; it has {', '.join(others) or 'none at all'}")
    return mine


def _count(entry: dict[str, Any]) -> CycleCount:
    cycles = int(entry["cycles"])
    code = {str(kind): float(share) * cycles for kind, share in entry["code"].items()}
    return CycleCount(str(entry["cpu"]), int(entry["instructions"]), cycles, float(entry["board_milliseconds"]), code)
