"""Who may import whom (docs/architecture.md): read from the sources, and tinydet_lite without TensorFlow for real."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Each part may import itself and what stands before it; parts on one line do not know each other unless named.
LAYERS = [
    {
        "commands",
        "recipes",
        "backbones",
        "run_files",
    },  # backbones: the tables of model/, plain data that the configuration needs
    {"config", "anchors", "boxes"},
    {"layers", "assign"},
    {"model"},
    {"weights", "data"},
    {"keras_detector", "matching", "starts"},
    {"evaluation", "export", "checkpoints"},
    {"training"},
    {"analysis", "report", "api"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(pieces: tuple[str, ...]) -> tuple[str, ...]:
    return pieces[1:] if pieces[:2] == ("model", "backbones") else pieces


def test_data_flows_one_way() -> None:
    checked = 0
    for path in (ROOT / "tinydet_tf").rglob("*.py"):
        parts = part_of(path.relative_to(ROOT / "tinydet_tf").with_suffix("").parts)
        if parts[0] == "__init__":
            continue
        for name in imports_of(path):
            package, *pieces = name.split(".")
            pieces = part_of(tuple(pieces))
            if package == "tinydet_tf" and pieces and pieces[0] != parts[0] and pieces[0] in RANK:
                assert RANK[pieces[0]] < RANK[parts[0]], f"{path} imports {name}"
                checked += 1
    assert checked > 20


def test_the_model_knows_nothing_of_targets() -> None:
    for path in [*(ROOT / "tinydet_tf" / "model").rglob("*.py"), *(ROOT / "tinydet_tf" / "layers").rglob("*.py")]:
        assert not {n for n in imports_of(path) if n.startswith(("tinydet_tf.training", "tinydet_tf.data"))}, path


def test_what_only_reads_data_imports_nothing_of_training() -> None:
    for name in (
        "evaluate",
        "export",
        "show_batch",
        "anchor_coverage",
        "receptive_field",
        "quantize_experiments",
        "detect",
    ):
        path = ROOT / "tinydet_tf" / "cli" / f"{name}.py"
        assert not {n for n in imports_of(path) if n.startswith("tinydet_tf.training")}, path
    for path in (ROOT / "tinydet_tf" / "analysis").rglob("*.py"):
        training = {n for n in imports_of(path) if n.startswith("tinydet_tf.training")}
        if path.name == "throughput.py":  # times the trainer, which is not the run
            training = {n for n in training if not n.startswith("tinydet_tf.training.step")}
        assert not training, path


def test_the_rooms_of_training() -> None:
    """The step imports neither QAT nor the run, and QAT does not import the run."""
    rank = {"step": 0, "qat": 1, "run": 2}
    training = ROOT / "tinydet_tf" / "training"
    assert {path.name for path in training.iterdir() if not path.name.startswith("_")} == set(rank)
    checked = 0
    for path in training.rglob("*.py"):
        room = path.relative_to(training).parts[0]
        for name in imports_of(path):
            if name.startswith("tinydet_tf.training."):
                other = name.split(".")[2]
                assert rank[other] <= rank[room], f"{path} imports {name}"
                checked += other != room
    assert checked > 5


def test_torch_is_in_checkpoints_alone() -> None:
    for path in (ROOT / "tinydet_tf").rglob("*.py"):
        if "checkpoints" not in path.parts:
            assert not {n for n in imports_of(path) if n.split(".")[0] == "torch"}, path


def test_the_edge_half_knows_nothing_of_the_training_half() -> None:
    files = list((ROOT / "tflite" / "tinydet_lite").rglob("*.py"))
    assert files
    for path in files:
        assert not {n for n in imports_of(path) if n.split(".")[0] in ("tinydet_tf", "keras", "tf_keras")}, path


#: The rooms of tinydet_lite, and which of them each may import beside its own; all may import the top.
LITE_ROOMS = {
    "": {"guard"},
    "guard": set(),
    "media": set(),
    "lab": {"guard"},
    "commands": {"guard", "media", "lab"},
}


def lite_imports_of(path: Path, room: str) -> set[str]:
    """What a file of tinydet_lite imports from it, as names below the package, however the import is written."""
    names = {name.partition(".")[2] for name in imports_of(path) if name.split(".")[0] == "tinydet_lite"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            within = [room] if room and node.level == 1 else []
            names |= {".".join([*within, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return names


def test_the_rooms_of_the_edge_half() -> None:
    """Its top needs no other room but the guard. `draw` of the public face is imported when it is asked for."""
    package = ROOT / "tflite" / "tinydet_lite"
    checked = 0
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).parts
        room = parts[0] if len(parts) > 1 else ""
        assert room in {*LITE_ROOMS, "models"}, f"{path}: a room without a rule"
        if path.name == "__init__.py":
            continue
        for name in lite_imports_of(path, room):
            first = name.split(".")[0]
            other = first if first in LITE_ROOMS else ""
            assert other in {"", room, *LITE_ROOMS[room]}, f"{path} imports {name}"
            checked += 1
    assert checked > 50


def test_the_edge_halfs_face() -> None:
    import tinydet_lite

    assert {"Detector", "Detections", "TiledDetector", "draw"} <= set(tinydet_lite.__all__)
    assert all(getattr(tinydet_lite, name) is not None for name in tinydet_lite.__all__)
    program = "import sys, tinydet_lite; print([m for m in sys.modules if m.startswith('tinydet_lite.media')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluating_and_exporting_load_nothing_of_training() -> None:
    program = "import sys, tinydet_tf.api; print([m for m in sys.modules if m.startswith('tinydet_tf.training')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_keras_is_tf_keras_everywhere() -> None:
    for path in (ROOT / "tinydet_tf").rglob("*.py"):
        assert not {n for n in imports_of(path) if n.split(".")[0] == "keras" or n.startswith("tensorflow.keras")}, path


def test_the_edge_half_imports_without_tensorflow() -> None:
    program = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('tensorflow', 'keras', 'tf_keras'): raise ImportError('blocked ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import pkgutil, importlib, tinydet_lite\n"
        "for m in pkgutil.walk_packages(tinydet_lite.__path__, 'tinydet_lite.'): importlib.import_module(m.name)\n"
        "print('ok', 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["ok", "False"], done.stderr


def test_help_does_not_wait_for_tensorflow() -> None:
    program = "import sys; import tinydet_tf.config; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
