"""Calibration: which images are chosen, how they are prepared, what ranges come out, what bad input says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.errors import UserError
from tinydet_lite.preprocess import as_rgb_array, resize_to
from tinydet_tf.config import Config, DataConfig, model_config
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.export.calibration import (
    Calibration,
    Observation,
    calibration_data,
    calibration_file,
    choose,
    load_calibration_images,
    ranges,
    write_calibration,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = digits_folder(tmp_path_factory.mktemp("digits"), num_train=10, num_val=2)
    return load_coco(*locate_split(folder, "train"))


@pytest.mark.parametrize(("size", "count"), [(100, 10), (7, 7), (11, 4), (3, 10), (1, 1)])
def test_choice_is_spread_evenly_and_repeatable(size: int, count: int) -> None:
    chosen = choose(size, count, seed=1)
    count = min(count, size)
    assert len(set(chosen.tolist())) == count and chosen.min() >= 0 and chosen.max() < size
    edges = np.linspace(0, size, count + 1)
    for index, (start, end) in enumerate(zip(np.ceil(edges[:-1]), np.ceil(edges[1:]), strict=True)):
        assert start <= np.sort(chosen)[index] < end
    np.testing.assert_array_equal(chosen, choose(size, count, seed=1))


def test_seeds_choose_differently() -> None:
    assert choose(1000, 20, seed=0).tolist() != choose(1000, 20, seed=1).tolist()


def test_samples_are_what_the_wrapper_feeds(dataset: CocoDataset) -> None:
    samples = load_calibration_images(dataset, 96, count=4, seed=3)
    by_id = {image.id: image for image in dataset.images}
    assert samples.images.shape == (4, 96, 96, 3) and samples.images.dtype == np.uint8
    for pixels, image_id, name in zip(samples.images, samples.image_ids, samples.files, strict=True):
        assert by_id[image_id].path.name == name
        np.testing.assert_array_equal(pixels, resize_to(as_rgb_array(by_id[image_id].path), 96))
    assert len(samples.first(2)) == 2 and samples.first(2).image_ids == samples.image_ids[:2]


def test_fewer_images_than_asked_for_are_all_taken(dataset: CocoDataset, caplog: pytest.LogCaptureFixture) -> None:
    assert len(load_calibration_images(dataset, 32, count=50)) == 10
    assert "calibrated with 10 images, all that the data has; 50 are better" in caplog.text


def test_another_image_takes_the_place_of_a_broken_one(
    dataset: CocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut, holed = dataset.images[2], dataset.images[7]
    spoiled = {cut.id: tmp_path / "cut.jpg", holed.id: tmp_path / "holed.png"}
    spoiled[cut.id].write_bytes(cut.path.read_bytes()[:-500])  # seen beforehand
    Image.open(holed.path).save(spoiled[holed.id])
    before, mark, pixels = spoiled[holed.id].read_bytes().partition(b"IDAT")
    spoiled[holed.id].write_bytes(before + mark + bytes(20) + pixels[20:])  # only decoding finds it
    images = tuple(dataclasses.replace(i, path=spoiled.get(i.id, i.path)) for i in dataset.images)
    samples = load_calibration_images(dataclasses.replace(dataset, images=images), 32, count=8, seed=3)
    assert sorted(samples.image_ids) == sorted({i.id for i in dataset.images} - set(spoiled))
    assert all(path.name in caplog.text for path in spoiled.values())


def test_bad_input(dataset: CocoDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 calibration images came; expected at least 1"):
        load_calibration_images(dataset, 32, count=0)
    with pytest.raises(UserError, match="no images to calibrate with"):
        load_calibration_images(dataclasses.replace(dataset, images=()), 32)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    images = (dataclasses.replace(dataset.images[0], path=broken),)
    with pytest.raises(UserError, match=r"none of the 1 images .*broken\.png"):
        load_calibration_images(dataclasses.replace(dataset, images=images), 32)


def seen(values: list[list[float]]) -> dict[str, Observation]:
    """Of one channel."""
    array = np.array(values, np.float32)
    low, high = array.min(1), array.max(1)
    return {"t": Observation(low.astype(float), high.astype(float), array, low[:, None], high[:, None])}


def test_ranges_by_hand() -> None:
    observation = seen([[-1.0, 2.0], [-3.0, 4.0]])
    assert ranges(observation, "min_max") == {"t": (-3.0, 4.0)}


def test_zero_lies_in_every_range() -> None:
    for method in ("min_max", "percentile"):
        low, high = ranges(seen([[1.0, 2.0]]), method)["t"]
        assert low == 0.0 and high > 0.0
        low, high = ranges(seen([[-2.0, -1.0]]), method)["t"]
        assert low < 0.0 and high == 0.0


def test_a_tensor_of_zeros_has_a_range() -> None:
    """A gate that nothing opens: runtimes refuse a scale of next to nothing."""
    for method in ("min_max", "percentile"):
        for values in ([0.0, 0.0], [0.0, 1e-30], [-1e-25, 0.0]):
            assert ranges(seen([values]), method) == {"t": (0.0, 1.0)}


def test_percentile_clips_an_outlier() -> None:
    values = np.random.default_rng(0).normal(size=(1, 400000))
    values[0, 0] = 20.0
    observation = seen(values.tolist())
    assert ranges(observation, "min_max")["t"][1] == pytest.approx(20.0)
    assert ranges(observation, "percentile")["t"][1] < 6.0


def test_data_is_the_runs_own_or_must_be_given() -> None:
    digits = Config(
        variant="S", model=model_config("S"), class_names=tuple("0123456789"), category_ids=tuple(range(10))
    )
    assert calibration_data(digits) == DataConfig(root="digits")  # a run of version 0.1 does not name them
    assert calibration_data(digits, "elsewhere").root == "elsewhere"
    other = dataclasses.replace(digits, class_names=("cat",), category_ids=(1,))
    with pytest.raises(UserError, match="give --data"):
        calibration_data(other)


def test_saved_beside_the_model(tmp_path: Path) -> None:
    path = calibration_file(tmp_path / "m.tflite")
    assert path.name == "m.calibration.json"
    write_calibration(
        Calibration("min_max", "2 of 3 images of a.json", 5, (7, 9), ("a", "b"), {"t": (-1.0, 2.0)}), path
    )
    stored = json.loads(path.read_text())
    assert stored["image_ids"] == [7, 9] and stored["seed"] == 5 and stored["ranges"] == {"t": [-1.0, 2.0]}
