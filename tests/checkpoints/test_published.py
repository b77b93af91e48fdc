"""Published weights in Keras and in a .tflite give what they give in PyTorch; every wrong checkpoint is named."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from partners import assert_same_rows, first
from random_detectors import convert
from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.published import (
    CLASS_WEIGHT,
    Imported,
    detector_parameters,
    import_published,
)
from tinydet_tf.config import VARIANTS, config_from_dict, model_config
from tinydet_tf.data.coco_classes import COCO_CATEGORIES, COCO_CATEGORY_IDS, COCO_CLASS_NAMES
from tinydet_tf.export.convert import to_flatbuffer
from tinydet_tf.export.rewrites import psroi
from tinydet_tf.export.rewrites.positions import FloatPositions
from tinydet_tf.export.rewrites.rows import table_rows
from tinydet_tf.export.rewrites.trunk import Trunk
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.weights import initialize, load_detector, save_backbone, save_weights

torch = pytest.importorskip("torch", reason="the published checkpoints are PyTorch's, and torch is an optional extra")
from checkpoints.published_tensors import export_published  # noqa: E402
from checkpoints.torch_reference import (  # noqa: E402
    SPECS,
    TABLE_10,
    TABLE_11,
    ImageNetClassifier,
    TinyDetReference,
    decode_rcnn,
    published,
    random_rois,
    randomize,
    reference,
    smooth_images,
)

Tensors = dict[str, Any]
Save = Callable[[Tensors], Path]

TRAINABLE = {"S": 2_573_037, "M": 5_120_706, "L": 5_120_706}
KEYS = {"S": 344, "M": 406, "L": 406}
#: L is M at another size, and takes longest.
COMPUTED = ["S", "M", pytest.param("L", marks=pytest.mark.slow)]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(tensors: Tensors) -> Path:
        path = tmp_path / "tinydet.pth"
        torch.save({"meta": {"epoch": 240}, "state_dict": tensors}, path)
        return path

    return write


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Imported]:
    """The reference of a variant through a file as it is published: old format, under state_dict."""

    @functools.cache
    def of(variant: str) -> Imported:
        path = tmp_path_factory.mktemp("published") / f"tinydet_{variant}.pth"
        content = {"meta": {"CLASSES": COCO_CLASS_NAMES}, "state_dict": published(reference(variant))}
        torch.save(content, path, _use_new_zipfile_serialization=False)
        return import_published(path, variant)

    return of


def relative(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest value; of equal shapes."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def channels_last(values: Any) -> np.ndarray:
    return values.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_reference_has_the_published_size(variant: str) -> None:
    model = TinyDetReference(variant, 80)
    assert len(model.state_dict()) == KEYS[variant]
    assert sum(p.numel() for p in model.parameters()) == TRAINABLE[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variable_is_one_published_parameter(variant: str) -> None:
    detector = TinyDet(model_config(variant), 80)
    parameters = detector_parameters(detector.config)
    names = {p.name for p in parameters}
    assert len(names) == len(parameters) == len({(p.layer, p.weight) for p in parameters}) == len(detector.weights)
    assert names == {n for n in TinyDetReference(variant, 80).state_dict() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("variant", COMPUTED)
def test_same_features_proposals_and_classes(variant: str, imported: Callable[[str], Imported]) -> None:
    model, detector = reference(variant), imported(variant).detector
    images = smooth_images(SPECS[variant].size, 2 if variant == "S" else 1, seed=3)
    rois = random_rois(SPECS[variant], len(images), seed=5)
    with torch.no_grad():
        features = model.features(images)
        rpn_logits, rpn_deltas = model.rpn(features)
        class_logits, deltas = model.rcnn(features, rois)
    ours = detector.features(images)
    our_rpn_logits, our_rpn_deltas = detector.rpn(ours)
    our_class_logits, our_deltas = detector.rcnn(ours, rois)

    # Vanishing or exploding activations would make the comparison easy.
    for feature in features:
        assert 0.3 < feature.std() < 10 and feature.std((0, 2, 3)).min() > 0.01
    assert class_logits.std() > 0.3 and len(np.unique(class_logits.numpy().round(3), axis=0)) > 40
    # Measured over S, M, L: features 5.5e-6, RPN logits 6.7e-6, RPN deltas 6.4e-6, class logits 5.0e-6, deltas 7.2e-6.
    errors = {
        "features": [relative(a, channels_last(b)) for a, b in zip(ours, features, strict=True)],
        "rpn_logits": [relative(a, channels_last(b)) for a, b in zip(our_rpn_logits, rpn_logits, strict=True)],
        "rpn_deltas": [relative(a, channels_last(b)) for a, b in zip(our_rpn_deltas, rpn_deltas, strict=True)],
        "class_logits": [relative(our_class_logits, class_logits)],
        "deltas": [relative(our_deltas, deltas)],
    }
    print(variant, {name: max(values) for name, values in errors.items()})
    assert max(max(values) for values in errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("variant", COMPUTED)
def test_same_boxes_in_the_tflite(variant: str, imported: Callable[[str], Imported]) -> None:
    """Published layout -> Keras -> .tflite: the file's outputs against Keras and against PyTorch on Keras' rois."""
    result, model, size = imported(variant), reference(variant), SPECS[variant].size
    image = smooth_images(size, 1, seed=7)
    outputs = Interpreter(model_content=convert(result.detector, result.config), num_threads=2).get_signature_runner()(
        image=image
    )
    keras = {name: value.numpy()[0] for name, value in result.detector(image).items()}
    with torch.no_grad():
        rois = np.concatenate([np.zeros([200, 1], np.float32), keras["rois"]], 1)
        class_logits, deltas = model.rcnn(model.features(image), rois)
        theirs = {
            "class_probs": class_logits.softmax(1).numpy(),
            "boxes": decode_rcnn(torch.as_tensor(keras["rois"]), deltas, size).numpy(),
        }
    assert len(np.unique(keras["rois"], axis=0)) == 200 and theirs["class_probs"][:, 1:].max() > 0.1
    # Errors behind the whole network: here 4.1e-5 of a probability and 1.6e-5 of the side.
    for expected in (keras, theirs):
        assert_same_rows(first(outputs), expected, pixels=1e-4 * size, probability=1e-4)


class Inside(tf.Module):
    """What the exported graph computes on its way, by the same converter: every map, and the head on given RoIs."""

    def __init__(self, detector: TinyDet, rois: np.ndarray) -> None:
        super().__init__()
        self.variables_of_detector = list(detector.variables)
        config, size = detector.config, detector.config.input_size
        levels = config.roi_levels

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            rows, trunk = table_rows(config), Trunk(detector, integer=False)
            features, logits, deltas = trunk(image)
            pooled = psroi.pool(features[:levels], tf.constant(rois), config, rows, FloatPositions(size))
            in_order = tf.gather(pooled, np.argsort(rows.channel_of.reshape(-1)), axis=1)  # as the head was trained
            class_logits, box_deltas = detector.rcnn_head(in_order)
            outputs = {"class_logits": class_logits, "deltas": box_deltas}
            for level, maps in enumerate(zip(features, logits, deltas, strict=True)):
                names = ("features", "rpn_logits", "rpn_deltas")
                outputs |= {f"{name}{level}": value for name, value in zip(names, maps, strict=True)}
            return outputs

        spec = tf.TensorSpec([1, size, size, 3], tf.uint8, name="image")
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)


@pytest.mark.parametrize("variant", COMPUTED)
def test_the_tflite_keeps_every_map(variant: str, imported: Callable[[str], Imported]) -> None:
    """Published layout -> Keras -> .tflite: FPN maps, RPN outputs, class logits and deltas of given RoIs."""
    model, detector = reference(variant), imported(variant).detector
    image = smooth_images(SPECS[variant].size, 1, seed=11)
    # Proposals are clipped to the image, and the file relies on it.
    rois = np.clip(random_rois(SPECS[variant], 1, seed=5), 0, SPECS[variant].size - 1)
    content = to_flatbuffer(Inside(detector, rois[:, 1:]))  # type: ignore[arg-type]
    outputs = Interpreter(model_content=content, num_threads=2).get_signature_runner()(image=image)
    with torch.no_grad():
        features = model.features(image)
        rpn_logits, rpn_deltas = model.rpn(features)
        class_logits, deltas = model.rcnn(features, rois)
    errors = {
        "class_logits": relative(outputs["class_logits"], class_logits),
        "deltas": relative(outputs["deltas"], deltas),
    }
    for name, maps in (("features", features), ("rpn_logits", rpn_logits), ("rpn_deltas", rpn_deltas)):
        for level, values in enumerate(maps):
            errors[f"{name}{level}"] = relative(outputs[f"{name}{level}"], channels_last(values))
    # Measured over S, M, L: features 8.8e-6, RPN logits 7.6e-6, RPN deltas 9.2e-6, class logits 7.1e-6, deltas 9.8e-6.
    print(variant, errors)
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("variant", ["S", "M"])
def test_the_way_back_gives_the_same_tensors(variant: str, imported: Callable[[str], Imported]) -> None:
    exported = export_published(imported(variant).detector)
    expected = {n: v for n, v in published(reference(variant)).items() if not n.endswith("num_batches_tracked")}
    assert set(exported) == set(expected)
    for name, values in expected.items():
        assert exported[name].flags.c_contiguous
        np.testing.assert_array_equal(exported[name], values.numpy(), err_msg=name)
    TinyDetReference(variant, 80).load_state_dict({n: torch.from_numpy(v) for n, v in exported.items()}, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_an_import_says(variant: str, imported: Callable[[str], Imported]) -> None:
    result = imported(variant)
    counters = sum(name.endswith("num_batches_tracked") for name in reference(variant).state_dict())
    assert result.num_tensors == KEYS[variant] - counters and result.num_parameters == TRAINABLE[variant]
    assert result.left_out == () and not result.backbone_only
    assert result.config.variant == variant and result.config.model == VARIANTS[variant]
    assert result.config.class_names == COCO_CLASS_NAMES and result.config.category_ids == COCO_CATEGORY_IDS


def test_m_and_l_have_the_same_shapes(save: Save) -> None:
    assert import_published(save(published(reference("M"))), "L").config.model == VARIANTS["L"]


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_classes(count: int, save: Save, tmp_path: Path) -> None:
    tensors = published(TinyDetReference("S", count))
    result = import_published(save(tensors), "S")
    assert result.detector.num_classes == count
    assert result.config.class_names == tuple(f"class{i}" for i in range(count))
    assert result.config.category_ids == tuple(range(1, count + 1))
    path = tmp_path / "s.weights.h5"
    save_weights(result.detector, result.config, path)
    loaded, config = load_detector(path)
    assert config == result.config == config_from_dict(config.to_dict())
    np.testing.assert_array_equal(export_published(loaded)[CLASS_WEIGHT], tensors[CLASS_WEIGHT].numpy())


@functools.cache
def small_checkpoint() -> Tensors:
    """The right names and shapes of S; tests change a copy."""
    return published(TinyDetReference("S", 2))


def refusal(path: Path, variant: str) -> str:
    with pytest.raises(UserError) as caught:
        import_published(path, variant)
    message = str(caught.value)
    assert "\n" not in message and path.name in message and len(message) < 700, message
    return message


def test_missing_and_unknown_tensors_are_named(save: Save) -> None:
    tensors = dict(small_checkpoint())
    del tensors["neck.fpn_convs.0.1.bias"]
    assert "1 missing: neck.fpn_convs.0.1.bias" in refusal(save(tensors), "S")
    tensors["neck.fpn_convs.9.1.bias"] = torch.ones(245)
    message = refusal(save(tensors), "S")
    assert "1 missing: neck.fpn_convs.0.1.bias; 1 not known: neck.fpn_convs.9.1.bias" in message
    tensors = {**small_checkpoint(), **{f"extra{i}": torch.ones(1) for i in range(9)}}
    assert "9 not known: extra0, extra1, extra2, extra3 and 5 more" in refusal(save(tensors), "S")
    # Strict also where only the class scores are missing, which say how many classes there are.
    tensors = {n: v for n, v in small_checkpoint().items() if not n.startswith("bbox_head.fc_cls")}
    assert "2 missing: bbox_head.fc_cls.weight, bbox_head.fc_cls.bias" in refusal(save(tensors), "S")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("backbone.blocks.0.0.weight", [16, 3, 5, 5], [16, 3, 3, 3]),
        ("backbone.blocks.2.conv2.weight", [64, 64, 3, 3], [64, 1, 3, 3]),
        ("backbone.blocks.5.bn2.running_var", [7], [120]),
        ("neck.fpn_convs.0.1.weight", [245, 245, 1, 1], [245, 35, 1, 1]),
        ("rpn_head.rpn_cls.weight", [9, 245, 1, 1], [3, 245, 1, 1]),
        ("bbox_head.fc_reg.weight", [12, 1024], [4, 1024]),
        ("bbox_head.fc_cls.bias", [4], [3]),
        ("bbox_head.shared_fcs.0.weight", [1024, 245, 1], [1024, 245]),
        (CLASS_WEIGHT, [1, 1024], [81, 1024]),
        (CLASS_WEIGHT, [3], [81, 1024]),
    ],
)
def test_both_shapes_are_said(name: str, shape: list[int], expected: list[int], save: Save) -> None:
    message = refusal(save({**small_checkpoint(), name: torch.ones(shape)}), "S")
    assert "of another shape" in message and f"{name} is {shape}, expected {expected}" in message


def test_another_variant_is_recognized(save: Save) -> None:
    path = save(dict(small_checkpoint()))
    assert "does not fit TinyDet-M, it fits S; give --variant S" in refusal(path, "M")
    path = save(published(TinyDetReference("M", 2)))
    assert "does not fit TinyDet-S, it fits M and L; give --variant M or L" in refusal(path, "S")
    with pytest.raises(UserError, match="variant 'XL' does not exist; choose one of S, M, L"):
        import_published(path, "XL")


def test_another_network_is_no_tinydet(save: Save) -> None:
    message = refusal(save({f"layer{i}.weight": torch.ones(2) for i in range(9)}), "S")
    assert "is no TinyDet: it holds layer0.weight" in message and "backbone.blocks.0.0.weight" in message


@functools.cache
def classifier(name: str) -> ImageNetClassifier:
    model = ImageNetClassifier(TABLE_10 if name == "d" else TABLE_11).eval()
    generator = torch.Generator().manual_seed(3)
    randomize(model, generator)
    for tensor_name, values in model.state_dict().items():
        if "running" in tensor_name:
            values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    return model


HEAD = ("blocks.{}.0.weight", "blocks.{}.1.weight", "blocks.{}.1.bias", "blocks.{}.1.running_mean",
        "blocks.{}.1.running_var", "classifier.0.weight", "classifier.0.bias", "classifier.2.weight",
        "classifier.2.bias")  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(
    ("name", "variant", "head"), [("d", "S", 17), ("bc", "M", 20), pytest.param("bc", "L", 20, marks=pytest.mark.slow)]
)
def test_an_imagenet_backbone(name: str, variant: str, head: int, prefix: str, save: Save, tmp_path: Path) -> None:
    tensors = published(classifier(name))
    result = import_published(save({prefix + n: v for n, v in tensors.items()}), variant)
    assert result.backbone_only and result.config.class_names == ()
    assert result.left_out == tuple(prefix + text.format(head) for text in HEAD)
    exported = export_published(result.detector)
    taken = [n for n in exported if n.startswith("backbone.")]
    for n in taken:
        np.testing.assert_array_equal(exported[n], tensors[n.removeprefix("backbone.")].numpy(), err_msg=n)
    backbone = result.detector.backbone_model()
    assert result.num_tensors == len(taken) == len(backbone.weights)
    in_blocks = [p for n, p in classifier(name).named_parameters() if not n.startswith((f"blocks.{head}.", "class"))]
    assert result.num_parameters == sum(p.numel() for p in in_blocks)
    if prefix:
        return
    path = tmp_path / "b.weights.h5"
    save_backbone(result.detector, result.config, path)
    start = TinyDet(VARIANTS[variant], 4)
    assert len(initialize(start, path, variant=variant).taken) == len([la for la in backbone.layers if la.weights])
    np.testing.assert_array_equal(export_published(start)[taken[-1]], exported[taken[-1]])


def test_wrong_backbones(save: Save) -> None:
    tensors = published(classifier("d"))
    assert "it fits S" in refusal(save(tensors), "L")
    assert "it fits M and L" in refusal(save(published(classifier("bc"))), "S")
    missing = {n: v for n, v in tensors.items() if n != "blocks.16.bn3.bias"}
    message = refusal(save(missing), "S")
    assert "the backbone of TinyDet-S: 1 missing: backbone.blocks.16.bn3.bias" in message
    message = refusal(save({**tensors, "blocks.3.conv4.weight": torch.ones(2)}), "S")
    assert "1 not known: backbone.blocks.3.conv4.weight" in message
    message = refusal(save({**tensors, "blocks.4.se.se.1.bias": torch.ones(18)}), "S")
    assert "1 not known: backbone.blocks.4.se.se.1.bias" in message


def test_a_network_that_was_never_published_is_not_exported() -> None:
    detector = TinyDet(model_config("S", input_size=64, pyramid_conv="conventional"), 2)
    with pytest.raises(UserError, match="pyramid_conv is 'conventional'"):
        export_published(detector)


def test_coco_has_80_classes_of_90_ids(coco_mini: Path) -> None:
    categories = json.loads((coco_mini / "dev_train" / "instances.json").read_text())["categories"]
    assert [c["id"] for c in categories] == list(COCO_CATEGORIES) and len(COCO_CLASS_NAMES) == 80
    # That copy calls four of them as VOC does.
    voc = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv"}
    assert [voc.get(c["name"], c["name"]) for c in categories] == list(COCO_CLASS_NAMES)
