"""import_checkpoint.py as a user types it, and what its file is good for."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow  # noqa: F401 - what it says when it is first imported is not the command's

from commands import SCRIPTS, Command

torch = pytest.importorskip("torch", reason="the published checkpoints are PyTorch's, and torch is an optional extra")
from checkpoints.torch_reference import TABLE_10, ImageNetClassifier, TinyDetReference, published  # noqa: E402


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as they are published: a whole S, a backbone with its classifier."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    contents: dict[str, Any] = {
        "tinydet_S.pth": {"meta": {"epoch": 240}, "state_dict": published(TinyDetReference("S", 80))},
        "mobilenetv3_d.pt": published(ImageNetClassifier(TABLE_10)),
    }
    for name, content in contents.items():
        torch.save(content, folder / name, _use_new_zipfile_serialization=False)
    return {name: folder / name for name in contents}


def test_a_detector_becomes_weights_that_export(command: Command, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "my weights" / "s.weights.h5"
    output.parent.mkdir()
    done = command("import_checkpoint.py", "--variant", "S", checkpoints["tinydet_S.pth"], "--output", output)
    assert done.code == 0, done.err
    assert "TinyDet-S, 80 classes" in done.out
    assert "296 tensors used, 2,573,037 trainable parameters" in done.out and "left out" not in done.out
    assert f"scripts/evaluate.py --model '{output}' --data DIR" in done.out
    assert f"scripts/train.py --variant S --init '{output}' --data DIR" in done.out
    tflite = output.with_name("s.tflite")
    assert f"scripts/export.py --model '{output}' --output '{tflite}'" in done.out

    from checkpoints.published_tensors import export_published
    from tinydet_lite.metadata import read_model
    from tinydet_tf.weights import load_detector

    detector, config = load_detector(output)
    assert config.variant == "S" and config.class_names[:2] == ("person", "bicycle") and config.category_ids[-1] == 90
    state = torch.load(checkpoints["tinydet_S.pth"], weights_only=True)["state_dict"]
    for name, values in export_published(detector).items():
        np.testing.assert_array_equal(values, state[name].numpy(), err_msg=name)
    done = command("export.py", "--model", output, "--output", tflite)
    assert done.code == 0 and "80 classes" in done.out, done.err
    assert read_model(tflite).labels == config.class_names


def test_a_backbone_becomes_what_training_starts_from(
    command: Command, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "d.weights.h5"
    done = command("import_checkpoint.py", checkpoints["mobilenetv3_d.pt"], "--variant", "S", "--output", output)
    assert done.code == 0, done.err
    assert "the backbone of TinyDet-S (mobilenetv3_d) alone" in done.out and "tensors left out" in done.out
    for name in ("blocks.17.0.weight", "classifier.2.bias"):
        assert f"  {name}\n" in done.out
    assert f"scripts/train.py --variant S --init {output} --data DIR" in done.out
    assert "evaluate.py" not in done.out and "export.py" not in done.out
    refused = command("export.py", "--model", output, "--output", tmp_path / "x.tflite")
    refused.assert_refused_alone("holds a backbone alone")


def test_what_is_wrong_is_said_in_one_line(command: Command, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    good, output = checkpoints["tinydet_S.pth"], tmp_path / "x.weights.h5"
    run = functools.partial(command, "import_checkpoint.py")
    run(good, "--variant", "XL", "--output", output).assert_refused_alone(
        "variant 'XL' does not exist; choose one of S, M, L"
    )
    run(good, "--variant", "S", "--output", tmp_path / "x.h5").assert_refused_alone("does not end in .weights.h5")
    run(good, "--variant", "S", "--output", tmp_path / "no" / "x.weights.h5").assert_refused_alone("no folder")
    run(tmp_path / "no.pth", "--variant", "S", "--output", output).assert_refused_alone("no.pth does not exist")
    run(tmp_path, "--variant", "S", "--output", output).assert_refused_alone("is a folder")
    run(good, "--variant", "M", "--output", output).assert_refused_alone("it fits S; give --variant S")
    bad = tmp_path / "bad.pth"
    for content in (b"", b"garbage" * 1000, good.read_bytes()[:50_000], good.read_bytes()[:-5_000]):
        bad.write_bytes(content)
        run(bad, "--variant", "S", "--output", output).assert_refused_alone("bad.pth is not a PyTorch checkpoint")
    torch.save(TinyDetReference("S", 80), bad)
    run(bad, "--variant", "S", "--output", output).assert_refused_alone(
        "torch_reference.TinyDetReference", "save its tensors alone"
    )
    with_script = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(with_script, bad)
    run(bad, "--variant", "S", "--output", output).assert_refused_alone("TorchScript")
    bad.unlink()
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_wait_for_no_library(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['import_checkpoint.py', 'a.pth', '--variant', 'S', '--output', {str(tmp_path / 'x.h5')!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / 'import_checkpoint.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, 'tensorflow' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False", "False"], done.stderr
