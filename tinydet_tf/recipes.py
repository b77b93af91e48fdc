"""The configurations and plans of configs/, found by name wherever tinydet_tf is installed.

In a checkout they are its top-level configs/; the wheel carries them as tinydet_tf/configs/ (setup.py).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from tinydet_lite.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
#: The folder of the configurations.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
#: In it are plans, which `run-experiments` takes; everywhere else are recipes.
_PLANS = "experiments"
_ENDING = ".yaml"


def recipe_file(given: str | Path) -> Path:
    """The file of a configuration.

    Args:
      given: a file; or the name of one in configs/, with or without "configs/", its folder there and ".yaml".

    Returns:
      The path of the file. A path that leads elsewhere, to nothing, is returned as it is.

    Raises:
      UserError: a name that configs/ does not have; those that are near are listed.
    """
    files = [path for path in sorted(CONFIGS.rglob(f"*{_ENDING}")) if path.parent.name != _PLANS]
    return _find(Path(given), files, "config")


def recipe_files(given: Path) -> list[Path]:
    """A file or name as it is given; of a pattern that the shell found nothing for, as configs/ablations/*.yaml outside
    of a checkout, the files of configs/."""
    parts = given.parts[1:] if given.parts[:1] == ("configs",) else given.parts
    return (sorted(CONFIGS.glob("/".join(parts))) if "*" in str(given) and not given.is_absolute() else []) or [given]


def plan_file(given: str | Path) -> Path:
    """As `recipe_file`, the file of a plan of experiments."""
    return _find(Path(given), sorted((CONFIGS / _PLANS).glob(f"*{_ENDING}")), "plan")


def _find(given: Path, files: list[Path], what: str) -> Path:
    if given.is_file():
        return given
    parts = given.parts[1:] if given.parts[:1] == ("configs",) else given.parts
    wanted = Path(*parts).as_posix().removesuffix(_ENDING)
    # A file is named by its place in configs/, or, as no two have the same, by its name alone.
    named = {path.relative_to(CONFIGS).as_posix().removesuffix(_ENDING): path for path in files}
    short = {path.stem: path for path in files}
    found = named.get(wanted) or short.get(wanted)
    if found is not None:
        return found
    is_name = len(parts) == 1 or len(parts) < len(given.parts)
    if given.exists() or not is_name:
        return given
    near = difflib.get_close_matches(Path(wanted).name, short, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else f"those by name are {', '.join(short)}"
    raise UserError(f"{what} {given} is neither a file nor the name of one of the project's; {advice}")
