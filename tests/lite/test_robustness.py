"""500 odd pictures and 200 odd model files: each is taken, or refused in one line; nothing crashes, nothing hangs.

The mutations run in processes of their own, by batches; a crash is told with the seed that `mutations` makes it from.
"""

from __future__ import annotations

import collections
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinydet_lite import UserError
from tinydet_lite.guard import child, trial
from tinydet_lite.guard.flatbuffer import SLOTS, UNION_SLOTS, UNIONS, check_flatbuffer, read_flatbuffer
from tinydet_lite.models import DIGITS

from . import mutations

pytest.importorskip("ai_edge_litert", reason="it ships TFLite's schema")

PACKAGE = Path(__file__).resolve().parents[2] / "tflite"
IMAGES = 500
MODELS = 200
#: Of them, in the quick tests; the slow one does the rest.
QUICK_IMAGES = 240
QUICK_MODELS = 48
TIMEOUT = 300
_SCHEMA_SLOTS = 24


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(PACKAGE),
        "XDG_CACHE_HOME": str(folder / "cache"),  # what passed a trial is remembered there
        # A model that one runtime refuses would be handed to TensorFlow, which takes seconds to import.
        "TINYDET_RUNTIME": "ai_edge_litert",
    }


def _run(what: str, model: Path, folder: Path, first: int, last: int) -> dict[int, tuple[str, str]]:
    """Seed -> (kind, result)."""
    command = [sys.executable, mutations.__file__, what, str(model), str(folder), str(first), str(last)]
    done = subprocess.run(
        command, env=_environment(folder), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (
        f"{what}: ended with {done.returncode} at {lines[-1] if lines else 'the start'}: {done.stderr[-2000:]}"
    )
    found = {}
    for begun, ended in zip(lines[::2], lines[1::2], strict=True):
        seed, kind = begun.split(" ", 1)
        result = ended.removeprefix(f"{begun} ")
        assert result == "ok" or (result.startswith("refused: ") and "\\n" not in result), ended
        found[int(seed)] = (kind, result)
    counts = collections.Counter((kind, result.partition(":")[0]) for kind, result in found.values())
    print("; ".join(f"{kind} {result} {number}" for (kind, result), number in sorted(counts.items())))
    return found


def _misjudged(
    found: dict[int, tuple[str, str]], sound: tuple[str, ...], wrong: tuple[str, ...]
) -> list[tuple[int, str, str]]:
    """(seed, kind, result) of what was refused though its kind is sound, or taken though its kind is wrong."""
    return [
        (seed, kind, result)
        for seed, (kind, result) in found.items()
        if (kind in sound and result != "ok") or (kind in wrong and not result.startswith("refused"))
    ]


def test_pictures(model_path, tmp_path):
    found = _run("images", model_path, tmp_path, 0, QUICK_IMAGES)
    assert list(found) == list(range(QUICK_IMAGES))
    assert {kind for kind, _ in found.values()} == set(mutations.IMAGE_KINDS)
    assert _misjudged(found, mutations.SOUND_IMAGES, mutations.WRONG_IMAGES) == []


@pytest.mark.slow
def test_more_pictures(model_path, tmp_path):
    found = _run("images", model_path, tmp_path, QUICK_IMAGES, IMAGES)
    assert list(found) == list(range(QUICK_IMAGES, IMAGES))
    assert _misjudged(found, mutations.SOUND_IMAGES, mutations.WRONG_IMAGES) == []


def test_models(model_path, tmp_path):
    found = _run("models", model_path, tmp_path, 0, QUICK_MODELS)
    assert list(found) == list(range(QUICK_MODELS))
    assert {kind for kind, _ in found.values()} == set(mutations.MODEL_KINDS)
    assert _misjudged(found, mutations.SOUND_MODELS, mutations.WRONG_MODELS) == []


@pytest.mark.slow
def test_more_models(model_path, tmp_path):
    half = (QUICK_MODELS + MODELS) // 2
    found = _run("models", model_path, tmp_path, QUICK_MODELS, half)
    assert list(found) == list(range(QUICK_MODELS, half))
    assert _misjudged(found, mutations.SOUND_MODELS, mutations.WRONG_MODELS) == []
    # A whole detector in int8: where its operators contradict each other they corrupt LiteRT's memory.
    found = _run("models", DIGITS, tmp_path, half, MODELS)
    assert list(found) == list(range(half, MODELS))
    wrong = (*mutations.WRONG_MODELS, *mutations.WRONG_IF_SHAPES_DIFFER)
    assert _misjudged(found, mutations.SOUND_MODELS, wrong) == []


@pytest.mark.parametrize("command", ["profile", "benchmark", "detect"])
def test_a_runtime_that_crashes_is_one_line_of_the_command(command, model_path, tmp_path):
    """A package in the runtime's place whose interpreter aborts, as LiteRT does over some files."""
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text("import os\n\ndef Interpreter(**_):\n    os.abort()\n")
    environment = _environment(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(PACKAGE)])
    arguments = [str(model_path)] if command != "detect" else ["--model", str(model_path), "--source", str(tmp_path)]
    if command == "detect":
        (tmp_path / "x.png").write_bytes(mutations.image_mutation(0)[1])
    done = subprocess.run(
        [sys.executable, "-m", "tinydet_lite", command, *arguments],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tinydet-{command}: error: ") and "was ended by signal 6 (SIGABRT)" in line


def test_a_runtime_that_hangs_is_told(model_path, tmp_path, monkeypatch):
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text("import time\n\ndef Interpreter(**_):\n    time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cannot be run: took longer than 2 s; it is damaged"):
        trial.try_model(model_path, timeout=2)


def test_without_processes_there_is_no_trial(model_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(child.ChildNotStarted, match=r"x: no process can be started \(No such file"):
        child.run_module("trial", ["y"], "x", 9)
    trial.try_model(model_path)
    assert not (tmp_path / "cache").exists()


def test_a_model_is_tried_once(model_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []
    monkeypatch.setattr(trial, "run_module", lambda *arguments: calls.append(arguments))
    trial.try_model(model_path)
    trial.try_model(model_path)
    assert len(calls) == 1
    trial.try_model(DIGITS)
    monkeypatch.setenv("TINYDET_RUNTIME", "ai_edge_litert")
    trial.try_model(model_path)
    assert len(calls) == 3


def test_every_offset_of_the_schema_is_known():
    """The slots that hold offsets, as `flatbuffer` lists them, against the classes that LiteRT ships."""
    schema = mutations._schema()
    for table, slots in SLOTS.items():
        unions = {slot for _, slot, _ in UNIONS.get(table, ())}
        assert _offset_slots(getattr(schema, table)) == set(slots) | unions, table
    for union, members in UNION_SLOTS.items():
        for name, number in vars(getattr(schema, union)).items():
            kind = getattr(schema, name, None)
            if isinstance(number, int) and kind is not None:
                assert _offset_slots(kind) == set(members.get(number, {})), name


def _offset_slots(table: Any) -> set[int]:
    """Slots that a generated class reads through an offset: with one far outside it fails, or hands out that place."""
    import flatbuffers

    found = set()
    for slot in range(_SCHEMA_SLOTS):
        builder = flatbuffers.Builder(64)
        builder.StartObject(_SCHEMA_SLOTS)
        builder.PrependUint32Slot(slot, 1 << 30, 0)
        builder.Finish(builder.EndObject())
        content = bytes(builder.Output()) + bytes(64)  # the widest number may be read at the end
        read = table.GetRootAs(content)
        for name in dir(read):
            if name.startswith(("_", "Init", "GetRootAs")) or name.endswith(("IsNone", "BufferHasIdentifier")):
                continue
            method = getattr(read, name)
            arguments = [0] * (method.__code__.co_argcount - 1)
            try:
                result = method(*arguments)
            except (struct.error, IndexError, ValueError):
                found.add(slot)
                continue
            place = getattr(getattr(result, "_tab", result), "Pos", 0)
            if place > len(content):
                found.add(slot)
    return found


def test_sound_files_pass_and_every_cut_is_noticed(model_path):
    model = read_flatbuffer(model_path)
    check_flatbuffer(model, "x")
    check_flatbuffer(read_flatbuffer(DIGITS), "x")
    for length in range(0, len(model), 97):
        with pytest.raises(UserError, match="x is "):
            check_flatbuffer(model[:length], "x")
