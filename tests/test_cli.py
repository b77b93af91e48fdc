"""`tinydet`: its list of commands, what they print to paste, and the configurations that are named without a path."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commands import SCRIPTS, Command
from tinydet_lite.errors import UserError
from tinydet_tf import recipes
from tinydet_tf.commands import COMMANDS, child_command, command_text, command_words, module_of
from tinydet_tf.config import load_config
from tinydet_tf.recipes import CONFIGS, plan_file, recipe_file, recipe_files
from tinydet_tf.training.run.plans import load_plan

CLI = Path(recipes.__file__).with_name("cli")


def test_help_lists_every_command(tinydet: Command) -> None:
    done = tinydet("--help")
    assert (done.code, done.err) == (0, "") and done.out.startswith("usage: tinydet COMMAND")
    lines = [line.split(maxsplit=1) for line in done.out.splitlines() if line.startswith("  ") and line[2] != " "]
    assert [line[0] for line in lines] == list(COMMANDS) and all(len(line) == 2 for line in lines)
    assert tinydet().out == tinydet("-h").out == done.out


def test_scripts_and_commands_are_the_same() -> None:
    modules = {module_of(name) for name in COMMANDS}
    assert len(modules) == len(COMMANDS)
    assert {path.stem for path in SCRIPTS.glob("*.py")} == modules
    assert {path.stem for path in CLI.glob("*.py")} - {"__init__", "main", "options", "quiet"} == modules
    for path in SCRIPTS.glob("*.py"):
        assert f"from tinydet_tf.cli.{path.stem} import main\n" in path.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_names_it(name: str, tinydet: Command, command: Command) -> None:
    done = tinydet(name, "--help")
    assert done.code == 0 and done.out.startswith(f"usage: tinydet {name} "), done
    script = command(f"{module_of(name)}.py", "--help")
    assert script.code == 0 and script.out.startswith(f"usage: {module_of(name)}.py "), script


def test_no_help_waits_for_tensorflow() -> None:
    program = (
        "import importlib, sys\n"
        "import tinydet_tf.cli.main\n"
        "commands = [m for m in sys.modules if m.startswith('tinydet_tf.cli.')]\n"
        "from tinydet_tf.commands import COMMANDS, module_of\n"
        "for name in COMMANDS: importlib.import_module('tinydet_tf.cli.' + module_of(name))\n"
        "print(commands, [m for m in ('tensorflow', 'tf_keras', 'matplotlib') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tinydet_tf.cli.quiet', 'tinydet_tf.cli.main'] []"


def test_loading_tensorflow_prints_nothing() -> None:
    run = [sys.executable, SCRIPTS / "count_madds.py", "--variant", "S"]
    done = subprocess.run(run, capture_output=True, text=True, env=without_log_level(), check=True)
    assert done.stderr == "" and "Parameters" in done.stdout


def test_a_terminal_is_told_that_tensorflow_is_being_loaded() -> None:
    ours, terminal = os.openpty()
    child = "from tinydet_tf.cli.main import console; console()"
    program = [sys.executable, "-c", child, "count-madds", "--variant", "S"]
    done = subprocess.run(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    text = "loading TensorFlow ..."
    assert shown == f"\r{text}\r{' ' * len(text)}\r"
    assert done.stdout.startswith(b"TinyDet-S")


@pytest.mark.parametrize("fails", [False, True])
def test_what_tensorflow_prints_is_lost_only_if_it_loads(fails: bool, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'a page of C++\\n')\n"
        + ("raise ImportError('no such library')\n" if fails else "class config:\n    list_physical_devices = list\n")
    )
    program = "import sys, tinydet_tf.cli, tensorflow; sys.stderr.write('after\\n')"
    environment = without_log_level() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if fails:
        assert done.returncode == 1 and done.stderr.startswith("a page of C++\n") and "no such library" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "after\n")


def without_log_level() -> dict[str, str]:
    """The environment of a user who set nothing."""
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("trian", ["tinydet: error: trian is not a command; did you mean train?"]),
        ("count_madds", ["did you mean count-madds?"]),
        ("export.py", ["did you mean export?"]),
        ("zzz", ["zzz is not a command; the commands are train, evaluate", "benchmark-input"]),
    ],
)
def test_an_unknown_command(given: str, words: list[str], tinydet: Command) -> None:
    tinydet(given).assert_refused_alone(*words)


def test_errors_name_the_command(tinydet: Command, tmp_path: Path) -> None:
    done = tinydet("evaluate", "--model", tmp_path / "absent")
    done.assert_refused_alone("tinydet evaluate: error: model ", "does not exist")


def test_version(tinydet: Command) -> None:
    import tinydet_lite
    import tinydet_tf

    expected = f"tinydet-tf {tinydet_tf.__version__}, tinydet-lite {tinydet_lite.__version__}\n"
    assert tinydet("--version") == (0, expected, "")


def test_python_m() -> None:
    run = [sys.executable, "-m", "tinydet_tf"]
    done = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m tinydet_tf COMMAND")
    done = subprocess.run([*run, "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("python -m tinydet_tf: error: trian is not")


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("scripts/train.py", "python scripts/profile_tflite.py"),
        ("/a b/scripts/train.py", "python '/a b/scripts/profile_tflite.py'"),
        ("tinydet train", "tinydet profile"),
        ("python -m tinydet_tf train", "python -m tinydet_tf profile"),
        ("/usr/bin/pytest", "tinydet profile"),
        ("my_own.py", "tinydet profile"),
    ],
)
def test_commands_to_paste_are_called_as_this_one_was(
    called: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert command_text("profile") == expected


@pytest.mark.parametrize("called", [f"{SCRIPTS}/run_experiments.py", "tinydet run", "python -m tinydet_tf run"])
def test_a_child_has_the_form_of_its_parent(called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    own = command_words("count-madds")
    done = subprocess.run([*child_command("count-madds"), "--help"], capture_output=True, text=True, check=True)
    # argparse shows a script's file name alone.
    assert done.stdout.startswith(f"usage: {'count_madds.py' if SCRIPTS.name in called else ' '.join(own)} [-h]")


def test_what_a_command_prints_to_paste(tinydet: Command, command: Command, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / "set" / folder / split).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "set" / "images" / split / "a.png")
        (tmp_path / "set" / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "set" / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    options = ("--input", tmp_path / "set", "--output")
    done = tinydet("convert-dataset", *options, tmp_path / "one")
    assert "\n  tinydet train --train-json " in done.out, done
    done = command("convert_dataset.py", *options, tmp_path / "two")
    assert f"\n  python {shlex.quote(str(SCRIPTS / 'train.py'))} --train-json " in done.out, done


def test_messages_ask_how_the_command_was_called() -> None:
    for path in CLI.parent.rglob("*.py"):
        if path.name != "commands.py":
            assert "python scripts/" not in path.read_text(), path


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("digits_s", "digits_s.yaml"),
        ("digits_s.yaml", "digits_s.yaml"),
        ("configs/digits_s.yaml", "digits_s.yaml"),
        ("table6_a", "ablations/table6_a.yaml"),
        ("ablations/table6_a", "ablations/table6_a.yaml"),
        ("configs/ablations/table6_a.yaml", "ablations/table6_a.yaml"),
    ],
)
def test_recipes_have_names(given: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_s").mkdir()  # a run of that name is no config
    assert recipe_file(given) == CONFIGS / place
    assert load_config(given) == load_config(CONFIGS / place)


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits_s.yaml").write_text("variant: M\n")
    assert load_config("digits_s.yaml").variant == "M" and load_config("digits_s").variant == "S"


def test_plans_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = CONFIGS / "experiments" / "digits.yaml"
    assert plan_file("digits") == plan_file("configs/experiments/digits.yaml") == plan
    assert load_plan(Path("digits")) == load_plan(plan)
    with pytest.raises(UserError, match=r"config digits is neither .* did you mean digits_s\?"):
        recipe_file("digits")


def test_no_two_recipes_have_the_same_name() -> None:
    names = [path.stem for path in CONFIGS.rglob("*.yaml")]
    assert len(names) > 20 and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("digitss", "config digitss is neither a file nor the name of one of the project's; did you mean digits_s?"),
        ("configs/ablations/tabel6_a.yaml", "did you mean table6_a"),
        ("zzz", "those by name are "),
        ("elsewhere/digits_s.yaml", "config elsewhere/digits_s.yaml cannot be read"),
    ],
)
def test_an_unknown_recipe(given: str, words: str, tinydet: Command) -> None:
    tinydet("count-madds", "--config", given).assert_refused_alone(words)


def test_a_pattern_means_the_projects_files_outside_of_a_checkout(
    tinydet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = recipe_files(Path("configs/ablations/table6_*.yaml"))
    assert found == sorted((CONFIGS / "ablations").glob("table6_*.yaml")) and len(found) > 2
    assert recipe_files(Path("digits_s")) == [Path("digits_s")]
    tinydet("count-madds", "--config", "configs/nothing/*.yaml").assert_refused("configs/nothing/*.yaml")
