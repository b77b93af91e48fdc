"""Runs the commands and the Python blocks of pages as they are written, in the pages' order, on small data.

    python tests/documented_commands.py                         # README.md, in a clean clone of the last commit
    python tests/documented_commands.py --installed             # from both wheels alone, outside any checkout
    python tests/documented_commands.py docs/int8.md --list     # what would be run, what is changed, what is left out

What a page calls DIR, my_set, WEIGHTS or LARGE.jpg is made under that very name, so that the commands need no change.
Five tables say all that is done otherwise than a page writes it: LIMITS (what is appended, so that training takes
seconds), INSTEAD (what is replaced), LEFT_OUT (what is not run, and why), TAKEN_FOR_DONE (what a page's reader has done
before) and BEFORE (what a Python block leaves to its reader). From the wheels, `python scripts/NAME.py` is `tinydet
NAME`, as the README says. An installation of packages is real, but those that this Python has are not downloaded again.

A page is read like a user's terminal: what a command activates or where it goes stays for the next ones, until the end
of the page or of a section of OTHER_MACHINES. Ends with 1 if a command failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from environments import ROOT, python_with, python_with_wheels, share_packages, without_our_paths
from tinydet_tf.commands import COMMANDS, module_of

_TRAINING = (
    "epochs=1", "batch_size=2", "nms_pre=300", "proposals=100", "rcnn_samples=32", "freeze_backbone=0",
)  # fmt: skip
_DATA = ("limit=4", "digits_train_images=8", "digits_val_images=2")
#: A command's name in scripts/ -> what is appended to it; a run that is resumed has what it began with.
LIMITS = {
    "train": " ".join(f"--set {s}" for s in (*(f"train.{t}" for t in _TRAINING), *(f"data.{d}" for d in _DATA))),
    "make_digits": "--train-images 8 --val-images 2",
    "evaluate": "--limit 2",
    "quantize_experiments": "--limit 2 --calibration-images 4 --skip-sensitivity",
    "benchmark": "--runs 3 --warmup 1",
}
#: What is written -> what is run, and why.
INSTEAD = {
    "--source 0 ": ("--source clip.avi ", "no camera here"),
    "--classes person bicycle": ("--classes 1 2", "the model that stands in for the reader's knows digits"),
}
#: The beginning of a command -> why it is not run.
LEFT_OUT = {
    "make test": "the tests, which CI runs",
    "make lint": "the linters, which CI runs",
    ".ci/run": "the tests and linters, which CI runs",
    "python -m pytest": "tests, which CI runs",
    ".venv/bin/python -m pytest": "tests, which CI runs",
    "make torch && .venv/bin/python -m pytest": "tests, which CI runs",
    "make shipped-model": "trains for forty minutes",
    "python benchmarks/peers/": "others' networks, in environments of gigabytes, on data that nobody may ship",
    "tensorboard": "a server, which runs until it is stopped",
    "sudo ": "a Raspberry Pi's packages",
    "vcgencmd": "a Raspberry Pi's",
    "cd tinydet": "the clone, where this terminal is",
    "import mediapipe": "tests/clients/test_mediapipe.py runs the same, in an environment of its own",
    "from sahi": "tests/clients/test_sahi.py runs the same, in an environment of its own",
    "from picamera2": "a Raspberry Pi's camera",
}
#: The same from the wheels.
LEFT_OUT_INSTALLED = {
    ". .venv/": "a checkout's environment",
    "make install": "of a checkout; the environment is there",
    "make torch": "of a checkout; pip install 'tinydet-tf[torch]'",
    "pip install './tflite": "of a checkout",
    "python3 -m venv ~/tinydet": "the environment is there",
}
_SHIPPED = "tflite/tinydet_lite/models/digits_s_int8.tflite"
_TRAIN = "python scripts/train.py --variant S --data DIR --output runs/mine"
#: The end of a page's path -> what its reader has done before, beside `make install`.
TAKEN_FOR_DONE = {
    "docs/anchor_coverage.md": (
        "mkdir -p annotations && cp DIR/val/instances.json annotations/instances_val2017.json",
        "echo 'variant: M' > my.yaml",
    ),
    "docs/footprint.md": ("cp PICTURE digits.png",),
    "docs/int8.md": (_TRAIN,),
    "docs/performance.md": ("make demo",),
    "docs/tiles.md": (f"cp {_SHIPPED} mine.tflite",),
    "tflite/README.md": (
        f"for name in mine mine_int8 mine_float32 tinydet_s a b; do cp {_SHIPPED} $name.tflite; done",
        "cp clip.avi drive.mp4",
    ),
}
#: What stands in a Python block -> what its reader has run before.
BEFORE = {
    "detect_frames(open_source(": "from tinydet_lite import Detector; detector = Detector('tinydet_s.tflite')",
    "detector(images)": "import numpy as np; images = np.zeros((1, 320, 320, 3), np.float32)",
}
#: Sections that another machine's user reads: what they change ends with them.
OTHER_MACHINES = ("On a Raspberry Pi",)

_END = "documented command ended with"


class Step(NamedTuple):
    """text: as it is written; kind: "sh" or "python"; section: the heading above it."""

    text: str
    kind: str
    section: str


def steps(page: str) -> Iterator[Step]:
    """The commands and the Python blocks of a page in Markdown."""
    section, kind, lines = "", "", list[str]()
    for line in page.splitlines():
        fence = re.match(r"\s*```(\w*)", line)
        if fence is None:
            heading = re.match(r"#+ (.*)", line) if not kind else None
            section = heading[1] if heading else section
            lines.append(line)
            continue
        if kind == "python":
            yield Step(_without_indent(lines), kind, section)
        elif kind == "sh":
            yield from (Step(command, kind, section) for command in commands(lines))
        kind, lines = "" if kind else fence[1] or "text", []


def commands(lines: list[str]) -> Iterator[str]:
    """The commands of a shell block without their comments; one may have several lines."""
    command = ""
    for line in lines:
        command += re.sub(r"(^|\s+)#( .*)?$", "", line.strip()) + "\n"
        whole = not command.endswith("\\\n") and subprocess.run(["bash", "-nc", command], capture_output=True)
        if whole and whole.returncode == 0:
            if command.strip():
                yield command.strip()
            command = ""
    assert not command, f"the shell block ends within {command!r}"


def _without_indent(lines: list[str]) -> str:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines)


def changed(command: str, *, installed: bool) -> str:
    """A command with the table's limits and replacements, in the form of a checkout or of the installed wheels."""
    for written, (run, _) in INSTEAD.items():
        command = command.replace(written, run)
    for name in COMMANDS:
        script = rf"(?:\S*/)?python (?:\./)?scripts/{module_of(name)}\.py"
        limits = "" if "--resume" in command else LIMITS.get(module_of(name), "")
        arguments = r"((?:\\\n|[^;&|\n])*)"
        command = re.sub(rf"({script}|\btinydet[ -]{name}\b){arguments}", rf"\1\2 {limits}".rstrip(), command)
        if installed:
            command = re.sub(script, f"tinydet {name}", command)
    return command


def left_out(command: str, *, installed: bool) -> str | None:
    """Why a command is not run; None: it is."""
    table = LEFT_OUT | (LEFT_OUT_INSTALLED if installed else {})
    return next((why for beginning, why in table.items() if command.startswith(beginning)), None)


class Terminal:
    """A shell that keeps its state from command to command."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip

    def run(self, command: str) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} < /dev/null\nprintf '\\n{_END} %d\\n' $?\n")
        self._shell.stdin.flush()
        printed = []
        for line in self._shell.stdout:
            if line.startswith(_END):
                return int(line.split()[-1]), "".join(printed)
            printed.append(line)
        return self._shell.wait(), "".join(printed)

    def close(self) -> None:
        self._shell.communicate()


def place(folder: Path, *, installed: bool) -> tuple[Path, dict[str, str]]:
    """The folder that a user is in, and their environment: a clean clone, or one with the wheels' Python."""
    home = folder / "home"
    home.mkdir()
    environment = without_our_paths() | {"HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("VIRTUAL_ENV", None)
    interpreters = [str(Path(sys.base_prefix, "bin")), environment["PATH"]]
    if installed:
        user = folder / "user"
        user.mkdir()
        interpreters.insert(0, str(python_with_wheels(folder / "wheels").parent))
    else:
        user = folder / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(user)], check=True)
        share_packages(python_with(user / ".venv", base=str(Path(sys.base_prefix, "bin", "python3"))))
    return user, environment | {"PATH": os.pathsep.join(interpreters)}


def make_small_data(folder: Path) -> None:
    """Makes what the pages' commands name, of a few scenes of digits."""
    import numpy as np
    from PIL import Image

    from tinydet_tf.config import Config, model_config
    from tinydet_tf.data.digits import CLASS_NAMES, digits_folder
    from tinydet_tf.model.detector import TinyDet
    from tinydet_tf.weights import save_weights

    drawn = digits_folder(folder / "cache", num_train=8, num_val=4)
    shutil.move(str(drawn), folder / "DIR")
    shutil.rmtree(folder / "cache")
    shutil.copytree(folder / "DIR/val", folder / "DIR/test")
    pictures = sorted((folder / "DIR/val/images").iterdir())
    shutil.copytree(folder / "DIR/train/images", folder / "my_set/images")
    shutil.copy(folder / "DIR/train/instances.json", folder / "my_set/annotations.json")
    for name in ("IMAGE_OR_FOLDER", "photos"):
        shutil.copytree(folder / "DIR/val/images", folder / name)
    for name in ("PICTURE", "street.jpg", "some.jpg", "picture.jpg"):
        shutil.copy(pictures[0], folder / name)
    Image.open(pictures[0]).resize((1920, 1080)).save(folder / "LARGE.jpg")
    config = Config(class_names=CLASS_NAMES, category_ids=tuple(range(1, 11)))
    save_weights(TinyDet(config.model, 10), config, folder / "WEIGHTS.weights.h5")
    (folder / "WEIGHTS.weights.h5").rename(folder / "WEIGHTS")
    try:
        import cv2

        clip = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (320, 320))
        for picture in pictures:
            clip.write(np.asarray(Image.open(picture).convert("RGB"))[..., ::-1].copy())
        clip.release()
    except ImportError as error:
        print(f"no clip.avi: {error}")
    try:
        import torch

        from checkpoints.published_tensors import export_published

        tensors = export_published(TinyDet(model_config("M"), 80))
        torch.save({"state_dict": {k: torch.from_numpy(v) for k, v in tensors.items()}}, folder / "tinydet_M.pth")
    except ImportError as error:
        print(f"no tinydet_M.pth: {error}")


class Run:
    """Runs pages' steps in a folder, and remembers what came of each."""

    def __init__(self, folder: Path, environment: dict[str, str], *, installed: bool, only_list: bool) -> None:
        self._folder, self._environment = folder, environment
        self._installed, self._only_list = installed, only_list
        self.rows: list[dict[str, Any]] = []

    def page(self, path: Path) -> None:
        print(f"== {path}", flush=True)
        terminal, other, section = self._terminal(), None, ""
        page = list(steps(path.read_text()))
        if not self._installed and not any(step.text in ("make install", "make demo") for step in page):
            self._run("(the page takes for done: make install)", "make install && . .venv/bin/activate", terminal)
        for command in next((done for end, done in TAKEN_FOR_DONE.items() if str(path).endswith(f"/{end}")), ()):
            print("  (the page takes for done:)", flush=True)
            self._step(Step(command, "sh", ""), terminal)
        for step in page:
            if step.section != section and other is not None:
                other.close()
                other = None
            section = step.section
            if section in OTHER_MACHINES and other is None:
                other = self._terminal()
            self._step(step, other or terminal)
        for each in filter(None, (terminal, other)):
            each.close()

    def _terminal(self) -> Terminal:
        return Terminal(self._folder, self._environment)

    def _step(self, step: Step, terminal: Terminal) -> None:
        why = left_out(step.text, installed=self._installed)
        if why is not None:
            self._tell(step.text, f"left out: {why}")
        elif step.kind == "python":
            before = next((code for word, code in BEFORE.items() if word in step.text), "")
            program = self._folder / "block.py"
            program.write_text(f"{before}\n{step.text}\n")
            self._run("the Python block: " + step.text.splitlines()[-1], f"python {program}", terminal)
        elif step.text == "make demo":
            self._demo(terminal)
        else:
            self._run(step.text, changed(step.text, installed=self._installed), terminal)

    def _demo(self, terminal: Terminal) -> None:
        """`make demo` is run as the commands that it consists of, with their limits."""
        if not self._installed:
            self._run("make demo (its environment)", "make .venv/.installed", terminal)
        told = subprocess.run(
            ["make", "-n", "-C", ROOT, "-o", ".venv/.installed", "demo"], capture_output=True, text=True, check=True
        )
        for command in told.stdout.splitlines():
            if "scripts/" in command:
                self._run(f"make demo: {command}", changed(command, installed=self._installed), terminal)

    def _run(self, written: str, run: str, terminal: Terminal) -> None:
        self._tell(written, "")
        if run != written and not written.startswith("the Python"):
            print(f"      run as: {run}", flush=True)
        if self._only_list:
            return
        start = time.monotonic()
        code, printed = terminal.run(run)
        self.rows[-1] |= {"run": run, "code": code, "seconds": round(time.monotonic() - start, 1)}
        if code:
            print("".join(f"      | {line}\n" for line in printed.strip().splitlines()[-20:]), end="")
        print(f"      {'ok' if code == 0 else f'FAILED with {code}'}, {self.rows[-1]['seconds']} s", flush=True)

    def _tell(self, written: str, note: str) -> None:
        self.rows.append({"written": written, "note": note})
        print(f"  $ {written}" + (f"\n      {note}" if note else ""), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=[ROOT / "README.md"], metavar="PAGE")
    parser.add_argument("--installed", action="store_true", help="from the wheels (default: in a clean clone)")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write what came of each command")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, environment = Path(name), dict(os.environ)
        if not args.list:
            folder, environment = place(folder, installed=args.installed)
            make_small_data(folder)
        run = Run(folder, environment, installed=args.installed, only_list=args.list)
        for page in args.pages:
            run.page(page.resolve())
    if args.json is not None:
        args.json.write_text(json.dumps(run.rows, indent=1) + "\n")
    failed = [row for row in run.rows if row.get("code")]
    done = [row for row in run.rows if row.get("code") == 0]
    print(f"{len(done)} ran, {len(failed)} failed, {sum('left out' in row['note'] for row in run.rows)} left out")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
