"""Plans of training experiments: rows, each a change of one recipe, trained with every seed and compared.

A plan is a YAML file:

    config: ../digits_s.yaml       # what all rows share, relative to the plan
    set: [train.epochs=4]          # and change
    seeds: [0, 1]
    rows:
      baseline: []
      without alignment: [model.align=false]

What is compared is the last epoch, whose number is the same for all: to take each run's best epoch would be to choose
on the images that are measured.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydet_lite.errors import UserError
from tinydet_tf.commands import child_command
from tinydet_tf.config import Config, assignment, load_config, read_yaml
from tinydet_tf.data.splits import absolute, named
from tinydet_tf.recipes import plan_file
from tinydet_tf.training.run.callbacks import History
from tinydet_tf.training.run.folder import METRICS
from tinydet_tf.weights import CONFIG

_LOG = logging.getLogger(__name__)
_METRICS = ("AP", "AP50", "APs", "APm")


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
      config: the recipe's file.
      rows: of the table: its name and the `key=value` assignments that make it.
      seeds: of every row.
    """

    config: Path
    rows: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]

    def configured(self, row: str, seed: int) -> Config:
        return load_config(self.config, assignments=[*self.rows[row], f"train.seed={seed}"])


def load_plan(path: Path, *, only: Sequence[str] | None = None, data: str | None = None) -> Plan:
    """A plan with all of its configurations checked.

    Args:
      path: a YAML file, or the name of one in configs/experiments/.
      only: the names of the rows to keep; None: all.
      data: the data set of every row, as --data names it to `train`; None: the plan's, or the recipe's.

    Raises:
      UserError: the file is no plan, a row does not exist, or a row's configuration is wrong.
    """
    path = plan_file(path)
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"plan {path} cannot be read ({error}); give a YAML file") from error
    known = isinstance(values, dict) and not set(values) - {"config", "set", "seeds", "rows"}
    if not known or not (values.get("config") and values.get("rows")):
        raise UserError(f"plan {path}: expected the keys config, rows, set and seeds; see configs/experiments/")
    shared, seeds = values.get("set", []), values.get("seeds", [0])
    rows = values["rows"]
    lists = (shared, *rows.values()) if isinstance(rows, dict) else ()
    texts = lists and all(isinstance(row, list) and all(isinstance(text, str) for text in row) for row in lists)
    if not (texts and isinstance(seeds, list) and seeds and all(isinstance(seed, int) for seed in seeds)):
        raise UserError(f"plan {path}: rows are lists of key=value, seeds a list of numbers; see configs/experiments/")
    if not all(isinstance(name, str) for name in rows):
        raise UserError(f"plan {path}: the name of each row is a text; put the others in quotes")
    for name in only or ():
        if name not in rows:
            raise UserError(f"plan {path} has no row {name!r}; it has {', '.join(map(repr, rows))}")
    shared = shared if data is None else [*shared, assignment("data.root", data)]
    chosen = {name: (*shared, *row) for name, row in rows.items() if only is None or name in only}
    folders: dict[Path, str] = {}
    for name in rows:
        other = folders.setdefault(row_folder(Path(), name, 0), name)
        if other != name:
            raise UserError(f"plan {path}: the rows {other!r} and {name!r} would share a folder; rename one")
    plan = Plan(path.parent / str(values["config"]), chosen, tuple(seeds))
    for name in plan.rows:
        if plan.configured(name, plan.seeds[0]).train.early_stopping_patience is not None:
            raise UserError(
                f"plan {path}, {name!r}: runs that stop early have no last epoch in common; "
                "add train.early_stopping_patience=null to its set"
            )
    return plan


def row_folder(output: Path, row: str, seed: int) -> Path:
    return output / f"{re.sub('[^a-z0-9]+', '_', row.lower()).strip('_')}_seed{seed}"


def run_plan(plan: Plan, output: Path) -> None:
    """Trains what is not finished, seed by seed, each run in a process of its own: a crash costs one run.

    Raises:
      UserError: a run failed, and the others are kept, or a folder holds another plan's.
    """
    for seed in plan.seeds:
        for row in plan.rows:
            folder = row_folder(output, row, seed)
            if _finished(folder, plan.configured(row, seed)) is not None:
                continue
            command = [*child_command("train"), "--output", str(folder)]
            if (folder / CONFIG).is_file():
                command += ["--resume"]
            else:
                given = [*plan.rows[row], f"train.seed={seed}"]
                command += ["--config", str(plan.config), *(part for text in given for part in ("--set", text))]
            _LOG.info("%s, seed %d: %s", row, seed, folder)
            if subprocess.run(command, check=False).returncode:
                raise UserError(f"the run in {folder} failed, see above; the others are kept, run this again to go on")


def results(plan: Plan, output: Path) -> list[dict[str, Any]]:
    """Of every finished run its row, seed and last epoch's metrics.

    Raises:
      UserError: as `run_plan`.
    """
    found = []
    for row in plan.rows:
        for seed in plan.seeds:
            entry = _finished(row_folder(output, row, seed), plan.configured(row, seed))
            if entry is not None:
                found.append({"row": row, "seed": seed, **entry})
    return found


def table(plan: Plan, found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: a row's mean over its seeds, and half the distance between its largest and smallest."""
    lines = ["| | runs | " + " | ".join(_METRICS) + " |", "|---" * (len(_METRICS) + 2) + "|"]
    for row in plan.rows:
        of_row = [entry for entry in found if entry["row"] == row]
        cells = []
        for name in _METRICS:
            values = [entry[f"val_{name}"] for entry in of_row]
            spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        lines.append(f"| {row} | {len(of_row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _finished(folder: Path, wanted: Config) -> dict[str, Any] | None:
    """The last epoch's entry in metrics.json of a run that has come to its end.

    Raises:
      UserError: the folder holds a run of another configuration, or its metrics.json is damaged.
    """
    if not (folder / CONFIG).is_file():
        return None
    theirs = load_config(folder / CONFIG)
    ours = dataclasses.replace(wanted, data=absolute(named(wanted.data)))
    for section in ("model", "train", "data"):
        for field, value in vars(getattr(ours, section)).items():
            other = getattr(getattr(theirs, section), field)
            if other != value:
                raise UserError(
                    f"{folder} holds a run with {section}.{field} {other}, and the plan has {value}; give another "
                    "--output, or remove that run"
                )
    last = History(folder / METRICS, finished=wanted.train.epochs).entries[-1:]
    return dict(last[0]) if last and last[0]["epoch"] == wanted.train.epochs and "val_AP" in last[0] else None
