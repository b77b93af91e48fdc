"""Takes a run's weights as those that come along: `python -m tinydet_tf.starts RUN` (`make shipped-model`)."""

from __future__ import annotations

import sys
from pathlib import Path

from tinydet_lite.cli import run
from tinydet_lite.errors import UserError
from tinydet_tf.run_files import SUFFIX
from tinydet_tf.starts import FOLDER
from tinydet_tf.weights import load_detector, save_compact


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError(f"got {len(sys.argv) - 1} arguments, expected one: the folder of a run")
    source = Path(sys.argv[1])
    _, config = load_detector(source)
    target = FOLDER / f"{config.model.backbone}{SUFFIX}"
    save_compact(source, target)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)
