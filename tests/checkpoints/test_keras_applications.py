"""Keras's MobileNets as backbones: the same function, from files with Keras's own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras as keras

from commands import Command
from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.backbones import SOURCES, import_backbone
from tinydet_tf.checkpoints.keras_applications import APPLICATIONS
from tinydet_tf.checkpoints.published import backbone_parameters
from tinydet_tf.config import model_config
from tinydet_tf.model.backbone import normalize
from tinydet_tf.model.backbones import IMPORTABLE
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.weights import initialize

SIDE = 128
#: Keras's layers at the ends of strides 4, 8, 16 and 32.
TAPS = {
    "mobilenetv2": ("block_2_add", "block_5_add", "block_12_add", "block_16_project_BN"),
    "mobilenetv3large": ("expanded_conv_2/Add", "expanded_conv_5/Add", "expanded_conv_11/Add", "expanded_conv_14/Add"),
}


def keras_network(backbone: str, *, include_top: bool = False, side: int = 224) -> Any:
    """With weights none of which is a fresh layer's: biases and statistics too."""
    network = APPLICATIONS[backbone].build(input_shape=(side, side, 3), include_top=include_top, weights=None)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        fresh = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([v + rng.uniform(-0.2, 0.2, v.shape) for v in fresh])
        elif len(fresh) == 2:
            layer.set_weights([fresh[0], rng.uniform(-0.2, 0.2, fresh[1].shape)])
    return network


@pytest.fixture(scope="module", params=list(TAPS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A backbone's name, Keras's network, and its weights in the format that Keras distributes."""
    network = keras_network(request.param, side=SIDE)
    file = tmp_path_factory.mktemp(request.param) / "keras.h5"
    network.save_weights(str(file))
    return request.param, network, file


def test_without_alignment_the_taps_are_kerass(case: tuple[str, Any, Path]) -> None:
    backbone, network, file = case
    imported = import_backbone(backbone, file, "M")
    assert len(imported.fresh) in (6, 8) and len({name.split("_")[0] for name in imported.fresh}) == 1
    detector = TinyDet(model_config("M", backbone=backbone, align=False, input_size=SIDE), 1)
    for layer in imported.detector.backbone_model().layers:
        if layer.weights:
            detector.pyramid.get_layer(layer.name).set_weights(layer.get_weights())

    images = np.random.default_rng(1).integers(0, 256, [2, SIDE, SIDE, 3]).astype(np.float32)
    # MobileNetV3 rescales by itself; MobileNetV2's callers use preprocess_input.
    theirs = images if backbone == "mobilenetv3large" else keras.applications.mobilenet_v2.preprocess_input(+images)
    expected = keras.Model(network.input, [network.get_layer(name).output for name in TAPS[backbone]])(theirs)
    taps = detector.backbone_model()(normalize(images))
    assert len(taps) == 5 and taps[-1].shape == (2, 2, 2, 160)
    for ours, reference in zip(taps, expected, strict=False):
        assert np.abs(reference).max() > 0.3
        # The affine layer's rounding and what sixty layers make of it; here 2.4e-7 at most.
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * np.abs(reference).max())


def test_every_weight_up_to_the_last_block_is_used(case: tuple[str, Any, Path]) -> None:
    backbone, network, file = case
    imported = import_backbone(backbone, file, "M")
    names = [APPLICATIONS[backbone].name(name) for name in imported.taken]
    assert len(set(names)) == len(names)
    behind = {layer.name for layer in network.layers if layer.weights} - set(names)
    assert behind == {"Conv_1", "Conv_1_bn" if backbone == "mobilenetv2" else "Conv_1/BatchNorm"}


def test_alignment_changes_no_shape(case: tuple[str, Any, Path], tmp_path: Path) -> None:
    """The pool in front, the same conv behind it, and levels of the same sizes."""
    backbone = case[0]
    with_pools, without = (
        TinyDet(
            model_config("M", backbone=backbone, align=align, align_stem=align, input_size=SIDE), 1
        ).backbone_model()
        for align in (True, False)
    )
    assert with_pools.output_shape == without.output_shape
    assert [w.shape for w in with_pools.weights] == [w.shape for w in without.weights]
    pools = [layer for layer in with_pools.layers if layer.name.endswith("_align")]
    assert len(pools) == 6  # the stem and strides 4 to 64
    # An odd side has no odd row to pad: as much before as behind.
    pads = [layer.padding for layer in with_pools.layers if isinstance(layer, keras.layers.ZeroPadding2D)]
    assert all(rows[0] == rows[1] and rows == columns for rows, columns in pads) and len(pads) == 6


def test_the_command(case: tuple[str, Any, Path], tmp_path: Path, command: Command) -> None:
    backbone, network, file = case
    output = tmp_path / "backbone.weights.h5"
    arguments = ["--backbone", backbone, "--weights", file, "--variant", "M", "--output", output]
    done = command("import_backbone.py", *arguments)
    out = done.out
    assert done.code == 0, done.err
    assert "_project_bn" in out and f"--set model.backbone={backbone} --init {output}" in out

    detector = TinyDet(model_config("M", backbone=backbone, align=False, input_size=SIDE), 7)
    assert "stem" in initialize(detector, output, variant="M").taken
    for ours, name in (("stem", APPLICATIONS[backbone].stem["stem"]), ("block15_project", None)):
        theirs = network.get_layer(name or APPLICATIONS[backbone].name(ours)).get_weights()
        for a, b in zip(detector.pyramid.get_layer(ours).get_weights(), theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_there_are_weights_for_every_network_of_others() -> None:
    """And for no other: the command refuses by one list, and reads by the other."""
    assert tuple(SOURCES) == IMPORTABLE


def test_a_file_with_the_classifier_will_do(tmp_path: Path) -> None:
    network = keras_network("mobilenetv2", include_top=True)
    network.save_weights(str(tmp_path / "top.h5"))
    imported = import_backbone("mobilenetv2", tmp_path / "top.h5", "M")
    np.testing.assert_array_equal(
        imported.detector.pyramid.get_layer("block17_project").get_weights()[0],
        network.get_layer("block_16_project").get_weights()[0],
    )


def test_without_a_network_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise Exception("URL fetch failure on https://example.invalid: None -- unreachable")

    from tf_keras.src.utils import data_utils

    monkeypatch.setattr(data_utils, "get_file", unreachable)
    for backbone in APPLICATIONS:
        with pytest.raises(UserError, match=r"cannot be downloaded .* give --weights FILE\.h5"):
            import_backbone(backbone, "imagenet", "M")


def test_bad_input(tmp_path: Path, command: Command) -> None:
    (tmp_path / "noise.h5").write_bytes(b"noise")
    other = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    other.save_weights(str(tmp_path / "other.h5"))
    good = tmp_path / "x.weights.h5"
    for change, words in (
        ({"--backbone": "resnet50"}, "--backbone resnet50: there are no weights to import; choose one of mobilenetv2"),
        ({"--variant": "S"}, "backbone mobilenetv2 feeds levels of [4, 8, 16, 32, 64]"),
        ({"--variant": "XL"}, "variant 'XL' does not exist"),
        ({"--output": tmp_path / "x.h5"}, "does not end in .weights.h5"),
        ({"--weights": tmp_path / "absent.h5"}, "absent.h5 does not exist"),
        ({"--weights": tmp_path / "noise.h5"}, "noise.h5 is not of Keras's mobilenetv2 at alpha 1, or is damaged"),
        ({"--weights": tmp_path / "other.h5"}, "other.h5 is not of Keras's mobilenetv2 at alpha 1, or is damaged"),
    ):
        options = {"--backbone": "mobilenetv2", "--weights": "imagenet", "--variant": "M", "--output": good} | change
        flat = [item for pair in options.items() for item in pair]
        done = command("import_backbone.py", *flat)
        done.assert_refused(words)
        assert done.err.strip().splitlines()[-1].startswith("import_backbone.py: error: ")
        assert not good.exists()


def test_the_published_names_do_not_cover_them() -> None:
    with pytest.raises(UserError, match="backbone mobilenetv2 is not the authors'"):
        backbone_parameters(model_config("M", backbone="mobilenetv2"))
    with pytest.raises(UserError, match="backbone edge_m is not the authors': no published weights"):
        backbone_parameters(model_config("M", backbone="edge_m"))
