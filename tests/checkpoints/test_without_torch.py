"""torch is an optional extra: without it everything imports, and reading a checkpoint says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.torch_file import read_torch


def test_a_missing_torch_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tinydet_tf.checkpoints.published  # noqa: F401  (needs no torch)

    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "a.pth"
    path.write_bytes(b"anything")
    with pytest.raises(UserError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert "\n" not in message
    for words in ("a.pth", "needs PyTorch", "pip install torch", "tinydet-tf[torch]"):
        assert words in message
