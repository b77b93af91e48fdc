"""benchmarks/chance.py: AP over pictures that are drawn with repetition."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import chance
import numpy as np
import pytest

from test_evaluation import some_results, write_data
from tinydet_tf.matching import judge


def test_each_picture_once_is_the_evaluation_itself(tmp_path: Path) -> None:
    dataset = write_data(tmp_path)
    evaluator = judge(dataset, some_results(dataset))
    stats = dict(zip(("AP", "AP50", "AP75", "APs"), evaluator.stats, strict=False))
    for draw in ([0, 1, 2], [2, 0, 1]):
        np.testing.assert_allclose(
            chance.drawn(evaluator, np.array(draw)), [stats[name] for name in chance.METRICS], atol=1e-12
        )
    assert 0.1 < stats["AP75"] < 0.9


def test_one_picture_again_and_again_is_that_picture_alone(tmp_path: Path) -> None:
    dataset = write_data(tmp_path)
    results = some_results(dataset)
    evaluator = judge(dataset, results)
    for index, image_id in enumerate(evaluator.params.imgIds):
        alone = dataclasses.replace(dataset, images=tuple(i for i in dataset.images if i.id == image_id))
        expected = judge(alone, [result for result in results if result["image_id"] == image_id]).stats[[0, 2, 3]]
        np.testing.assert_allclose(chance.drawn(evaluator, np.full(3, index)), expected, atol=1e-12)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tinydet_lite.models import DIGITS

    monkeypatch.setattr("sys.argv", ["chance.py", str(DIGITS), str(DIGITS), "--data", "digits", "--limit", "3"])
    chance.main()
    out = capsys.readouterr().out
    assert out.count("+0.00 ± 0.00") == 2 * len(chance.METRICS)
    assert "3 images of the val split, drawn anew 100 times" in out
