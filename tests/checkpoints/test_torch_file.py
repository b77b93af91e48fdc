"""Reading .pth and .pt files: both formats, both layouts, and every file that is none, in one line each."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.torch_file import read_torch

torch = pytest.importorskip("torch", reason="torch, an optional extra, writes the checkpoints that are read here")


class Meta:
    """What a training program leaves in a checkpoint: a class that only it knows."""


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.running_var": torch.rand(4, generator=generator),
        "scalar": torch.tensor(2.5),
    }


def save(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_refused(path: Path, *words: str) -> None:
    """A UserError of one line that names the file and says all of `words`; nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            read_torch(path)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message and len(message) < 500, message
    for word in (path.name, *words):
        assert word in message, message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_values_are_those_that_were_saved(container: str | None, zipped: bool, tmp_path: Path) -> None:
    expected = tensors()
    beside = {"meta": {"epoch": 3, "CLASSES": ("a", "b")}, "optimizer": {"state": {0: torch.ones(2)}}}
    content = expected if container is None else {**beside, container: OrderedDict(expected)}
    result = read_torch(save(tmp_path / "a.pth", content, zipped=zipped))
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert result[name].dtype == np.float32 and result[name].flags.c_contiguous
        np.testing.assert_array_equal(result[name], value.numpy())


def test_state_dict_comes_before_model(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"model": {"a": torch.zeros(1)}, "state_dict": {"b": torch.ones(1)}})
    assert list(read_torch(path)) == ["b"]


def test_names_of_data_parallel_lose_their_prefix(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"state_dict": {f"module.{name}": value for name, value in tensors().items()}})
    assert list(read_torch(path)) == list(tensors())
    # A prefix that only some have is part of a name.
    path = save(tmp_path / "b.pth", {"module.a": torch.ones(1), "a": torch.zeros(1)})
    assert set(read_torch(path)) == {"module.a", "a"}


def test_the_batch_counter_is_known_and_ignored(tmp_path: Path) -> None:
    layer = torch.nn.BatchNorm2d(3)
    assert "num_batches_tracked" in layer.state_dict()
    path = save(tmp_path / "a.pth", {**layer.state_dict(), "bn.num_batches_tracked": torch.tensor(7)})
    assert set(read_torch(path)) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_widths_become_float32(kind: str, tmp_path: Path) -> None:
    value = torch.tensor([[0.5, -1.25], [3.0, 1e-3]]).to(getattr(torch, kind))
    (result,) = read_torch(save(tmp_path / "a.pth", {"w": value})).values()
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, value.float().numpy())


def test_parameters_and_strided_views_are_tensors_too(tmp_path: Path) -> None:
    value = torch.arange(12.0).reshape(3, 4)
    path = save(tmp_path / "a.pth", {"parameter": torch.nn.Parameter(value), "view": value.t()[1:]})
    result = read_torch(path)
    np.testing.assert_array_equal(result["parameter"], value.numpy())
    np.testing.assert_array_equal(result["view"], value.numpy().T[1:])


NOT_TORCH = "is not a PyTorch checkpoint, or is damaged"


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 100, b"\x89HDF\r\n\x1a\n" + b"\0" * 500, b"PK\x03\x04zip"])
def test_files_of_other_programs(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert_refused(path, NOT_TORCH, "give the .pth or .pt file")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
def test_truncated(part: float, zipped: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", tensors(), zipped=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert_refused(path, NOT_TORCH)


def test_a_pickle_that_is_not_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": np.ones(3)}))
    assert_refused(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_an_object_that_is_not_loaded_is_named(zipped: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"state_dict": tensors(), "meta": Meta()}, zipped=zipped)
    assert_refused(path, f"{Meta.__module__}.Meta", "torch.save(", "where you trust the file")
    path = save(tmp_path / "b.pth", {"state_dict": tensors(), "best": np.float64(0.3)}, zipped=zipped)
    assert_refused(path, "numpy", "scalar")
    path = save(tmp_path / "c.pth", torch.nn.Linear(2, 2), zipped=zipped)
    assert_refused(path, "torch.nn.modules.linear.Linear")


def test_the_remedy_in_the_message_works(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    for content, names in (
        ({"state_dict": tensors(), "meta": Meta()}, list(tensors())),
        ({**tensors(), "meta": Meta()}, list(tensors())),
        (module, ["weight", "bias"]),
    ):
        path = save(tmp_path / "a.pth", content)
        with pytest.raises(UserError) as caught:
            read_torch(path)
        remedy = re.search(r"x = torch\.load\(.*OUT\)$", str(caught.value))
        assert remedy is not None
        out = tmp_path / "out.pth"
        exec(remedy[0], {"torch": torch, "IN": path, "OUT": out})
        assert list(read_torch(out)) == names


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_of_the_file_is_executed(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(trace),)

    path = save(tmp_path / "a.pth", {"state_dict": tensors(), "meta": Evil()}, zipped=zipped)
    assert_refused(path, "mkdir", "could run code")
    assert not trace.exists()


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert_refused(path, "is a TorchScript program", "model.state_dict()")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(3), ("holds a Tensor", "expected a state_dict")),
        ([torch.ones(3)], ("holds a list", "expected a state_dict")),
        ({}, ("empty state_dict",)),
        ({"state_dict": {}}, ("empty state_dict",)),
        ({1: torch.ones(3)}, ("an entry named 1",)),
        ({"epoch": 3, "w": torch.ones(3)}, ("'epoch' is a int", "expected tensors alone")),
        ({"state_dict": {"state_dict": {"w": torch.ones(3)}}}, ("'state_dict' is a dict",)),
        ({"net": {"w": torch.ones(3)}}, ("'net' is a dict", "under 'state_dict'")),
        ({"w": torch.arange(3)}, ("'w' holds int64", "expected floats")),
        ({"w": torch.ones(3, dtype=torch.complex64)}, ("'w' holds complex64",)),
        ({"w": torch.ones(3, dtype=torch.bool)}, ("'w' holds bool",)),
        ({"w": torch.tensor([1.0, float("nan")])}, ("'w' has values that are not finite",)),
        ({"w": torch.tensor([1.0, float("inf")])}, ("'w' has values that are not finite",)),
        ({"w": torch.tensor([1e300], dtype=torch.float64)}, ("'w' has values that are not finite",)),
        ({"w": torch.ones(3, device="meta")}, ("'w' is a sparse or empty (meta) tensor",)),
        ({"w": torch.eye(3).to_sparse()}, ("'w' is a sparse",)),
        ({"w": torch.ones(1).expand(10**12)}, ("'w' says it is [1000000000000], more than the file holds",)),
    ],
)
def test_content_that_is_no_set_of_weights(content: object, words: tuple[str, ...], tmp_path: Path) -> None:
    assert_refused(save(tmp_path / "a.pth", content), *words)


def test_deep_nesting(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    inner = content
    for _ in range(200):
        inner["a"] = {}
        inner = inner["a"]
    assert_refused(save(tmp_path / "a.pth", content), "'a' is a dict")


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is a folder")
    assert_refused(tmp_path / "absent.pth", "does not exist")
