"""What the slow tests that train for minutes share: commands as processes, and both forms of a run evaluated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(script: str, *arguments: object) -> None:
    """Runs scripts/`script`, which must succeed."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def keras_and_tflite(run: Path, *data: object) -> tuple[dict[str, float], dict[str, float]]:
    """What evaluate.py gives for a run and for its float32 export, which is left in the run's folder."""
    numbers = []
    command("export.py", "--model", run, "--output", run / "model.tflite")
    for name, model in (("keras", run), ("tflite", run / "model.tflite")):
        command("evaluate.py", "--model", model, *data, "--json", run / f"{name}.json")
        numbers.append(json.loads((run / f"{name}.json").read_text()))
        print(name, {key: round(numbers[-1][key], 4) for key in ("AP", "AP50", "APs", "APm", "APl")})
    return numbers[0], numbers[1]
