"""Between the published parameter names (docs/reference.md, "Published checkpoints") and Keras' variables.

But for the axes (torch_parameters.py) everything agrees: group g of a grouped conv makes the g-th run of outputs, the
R-CNN head reads (channel, row, column), class index 0 is the background, RPN deltas are anchor-major.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.torch_file import read_class_names, read_torch
from tinydet_tf.checkpoints.torch_parameters import (
    CONV,
    DENSE,
    DEPTHWISE,
    VECTOR,
    Arrays,
    Parameter,
    batch_norm,
    kernel,
    listed,
    mismatch,
    variables_of,
)
from tinydet_tf.commands import command_text
from tinydet_tf.config import VARIANTS, Config, ModelConfig, model_config
from tinydet_tf.data.coco_classes import COCO_CATEGORY_IDS, COCO_CLASS_NAMES
from tinydet_tf.model.backbones import BACKBONES, Dialect
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.weights import placeholder_names

BACKBONE_PREFIX = "backbone."
#: A file with names that start so is a detector, else it is a backbone.
DETECTOR_PREFIXES = ("neck.", "rpn_head.", "bbox_head.")
#: Its shape [C+1, hidden] says how many classes a checkpoint has; the 1 is the background.
CLASS_WEIGHT = "bbox_head.fc_cls.weight"


@dataclass(frozen=True)
class Imported:
    """What a published checkpoint became."""

    detector: TinyDet  # if the file is a backbone, the other weights are random
    config: Config  # if the file is a backbone, it names no classes
    left_out: tuple[str, ...]  # published names that were not used: a backbone's classifier
    backbone_only: bool
    num_tensors: int  # how many were used

    @property
    def num_parameters(self) -> int:
        """Number of trainable values; BN's moving statistics do not count."""
        model = self.detector.backbone_model() if self.backbone_only else self.detector
        return sum(int(np.prod(variable.shape)) for variable in model.trainable_weights)


def import_published(path: str | Path, variant: str) -> Imported:
    """A detector with the weights of a published checkpoint.

    Args:
      path: a .pth or .pt file of a whole detector (tinydet_S.pth, ...) or of an ImageNet backbone (mobilenetv3_d.pt,
        mobilenetv3_bc.pt; with or without BACKBONE_PREFIX).
      variant: 'S', 'M' or 'L'. M and L have the same shapes: the caller knows which one it is.

    Returns:
      Every variable of the detector, or of its backbone, is set from one tensor. Of a detector every tensor is used; of
      a backbone those outside its blocks, the classifier, are left out.

    Raises:
      UserError: see `read_torch`; no such variant; tensors missing, left over, or of another shape.
    """
    model = model_config(variant)
    tensors = read_torch(path)
    parameters, taken, left_out = _select(tensors, model)
    detector = TinyDet(model, _num_classes(tensors, model))
    variables = variables_of(detector, parameters)
    problem = mismatch(taken, parameters, variables)
    if problem is not None:
        raise UserError(_explain(path, tensors, variant, problem))
    for parameter in parameters:
        variables[parameter.name].assign(taken[parameter.name].transpose(parameter.axes))
    backbone_only = _is_backbone(tensors)
    names, ids = ((), ()) if backbone_only else _classes(detector.num_classes, read_class_names(path))
    config = Config(variant=variant, model=model, class_names=names, category_ids=ids)
    return Imported(detector, config, left_out, backbone_only, len(parameters))


def detector_parameters(config: ModelConfig) -> tuple[Parameter, ...]:
    """Every parameter of a detector, in the network's order.

    Raises:
      UserError: an architecture that the published names do not cover.
    """
    if config.pyramid_conv != "scconv":
        raise UserError(f"pyramid_conv is {config.pyramid_conv!r}; published checkpoints have 'scconv' alone")
    rows = list(backbone_parameters(config))
    for level in range(len(config.strides)):
        rows += _conv_with_bias(f"neck.lateral_convs.{level}.conv", f"lateral{level}", CONV)
        rows += _sc_conv(f"neck.fpn_convs.{level}", f"fpn{level}")
    rows += _sc_conv("rpn_head.rpn_conv", "rpn_conv")
    rows += _conv_with_bias("rpn_head.rpn_cls", "rpn_score", CONV)
    rows += _conv_with_bias("rpn_head.rpn_reg", "rpn_box", CONV)
    rows += _conv_with_bias("bbox_head.shared_fcs.0", "rcnn_fc", DENSE)
    rows += _conv_with_bias("bbox_head.fc_cls", "rcnn_score", DENSE)
    rows += _conv_with_bias("bbox_head.fc_reg", "rcnn_box", DENSE)
    return tuple(rows)


def backbone_parameters(config: ModelConfig) -> tuple[Parameter, ...]:
    """Every parameter of the backbone: no conv has a bias; each has its BN, except in squeeze-and-excite.

    Raises:
      UserError: a backbone that is not of the authors' family.
    """
    spec = BACKBONES[config.backbone]
    if spec.dialect != Dialect():
        raise UserError(
            f"backbone {config.backbone} is not the authors'; {command_text('import-backbone')} takes ImageNet weights "
            "of it"
        )
    if any(block.fused for block in spec.blocks):
        raise UserError(f"backbone {config.backbone} is not the authors': no published weights fit it")
    rows = [kernel(f"{BACKBONE_PREFIX}blocks.0.0", "stem", CONV)]
    rows += batch_norm(f"{BACKBONE_PREFIX}blocks.0.1", "stem_bn")
    for index, block in enumerate(spec.blocks, 1):
        name, layer = f"{BACKBONE_PREFIX}blocks.{index}", f"block{index}"
        if index > 1:  # the first block has no expansion
            rows.append(kernel(f"{name}.conv1", f"{layer}_expand", CONV))
            rows += batch_norm(f"{name}.bn1", f"{layer}_expand_bn")
        rows.append(kernel(f"{name}.conv2", f"{layer}_depthwise", DEPTHWISE))
        rows += batch_norm(f"{name}.bn2", f"{layer}_depthwise_bn")
        if block.squeeze_excite and config.squeeze_excite:
            rows.append(kernel(f"{name}.se.se.1", f"{layer}_se_reduce", CONV))
            rows.append(kernel(f"{name}.se.se.3", f"{layer}_se_expand", CONV))
        rows.append(kernel(f"{name}.conv3", f"{layer}_project", CONV))
        rows += batch_norm(f"{name}.bn3", f"{layer}_project_bn")
    return tuple(rows)


def _conv_with_bias(name: str, layer: str, axes: tuple[int, ...]) -> list[Parameter]:
    return [kernel(name, layer, axes), Parameter(f"{name}.bias", layer, "bias", VECTOR)]


def _sc_conv(name: str, layer: str) -> list[Parameter]:
    return [
        *_conv_with_bias(f"{name}.0", f"{layer}_depthwise", DEPTHWISE),
        *_conv_with_bias(f"{name}.1", f"{layer}_pointwise", CONV),
    ]


def _is_backbone(tensors: Arrays) -> bool:
    return not any(name.startswith(DETECTOR_PREFIXES) for name in tensors)


def _select(tensors: Arrays, model: ModelConfig) -> tuple[tuple[Parameter, ...], Arrays, tuple[str, ...]]:
    """The parameters to fill, the tensors that fill them (under the parameters' names), and names that are not used."""
    if _is_backbone(tensors):
        return backbone_parameters(model), *_backbone_tensors(tensors, model)
    return detector_parameters(model), tensors, ()


def _backbone_tensors(tensors: Arrays, model: ModelConfig) -> tuple[Arrays, tuple[str, ...]]:
    """The tensors of the backbone's blocks, under their names in a detector, and the names of all other tensors."""
    prefix = BACKBONE_PREFIX if any(name.startswith(BACKBONE_PREFIX) for name in tensors) else ""
    blocks = {str(index) for index in range(len(BACKBONES[model.backbone].blocks) + 1)}
    taken, left_out = {}, []
    for name, array in tensors.items():
        parts = name.removeprefix(prefix).split(".")
        if name.startswith(prefix) and len(parts) > 2 and parts[0] == "blocks" and parts[1] in blocks:
            taken[BACKBONE_PREFIX + name.removeprefix(prefix)] = array
        else:
            left_out.append(name)
    return taken, tuple(left_out)


def _num_classes(tensors: Arrays, model: ModelConfig) -> int:
    """Number of classes: rows of the class scores' weight, less the background; COCO's 80 without such a weight."""
    weight = tensors.get(CLASS_WEIGHT)
    if weight is None or weight.ndim != 2 or weight.shape[0] < 2 or weight.shape[1] != model.rcnn_hidden:
        return len(COCO_CLASS_NAMES)
    return int(weight.shape[0]) - 1


def _classes(count: int, named: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The file's own names if it has as many; else COCO's for as many classes as COCO has, else numbers.

    COCO's ids go with COCO's names, of which a few differ between its files.
    """
    own = named if len(named) == count else ()
    if count == len(COCO_CLASS_NAMES) and (not own or len(set(own) & set(COCO_CLASS_NAMES)) > count // 2):
        return COCO_CLASS_NAMES, COCO_CATEGORY_IDS
    return own or placeholder_names(count), tuple(range(1, count + 1))


def _fits(tensors: Arrays, variant: str) -> bool:
    model = VARIANTS[variant]
    parameters, taken, _ = _select(tensors, model)
    if {p.name for p in parameters} != set(taken):
        return False  # decided without building the network
    variables = variables_of(TinyDet(model, _num_classes(tensors, model)), parameters)
    return mismatch(taken, parameters, variables) is None


def _explain(path: str | Path, tensors: Arrays, variant: str, problem: str) -> str:
    """The message for a checkpoint with a problem: which variant it fits, else what the problem is."""
    parameters, taken, _ = _select(tensors, VARIANTS[variant])
    if not any(parameter.name in taken for parameter in parameters):
        return (
            f"checkpoint {path} is no TinyDet: it holds {listed(list(tensors))} but none of "
            f"{listed([p.name for p in parameters], 1)}"
        )
    fitting = [other for other in VARIANTS if other != variant and _fits(tensors, other)]
    if fitting:
        return (
            f"checkpoint {path} does not fit TinyDet-{variant}, it fits {' and '.join(fitting)}; "
            f"give --variant {' or '.join(fitting)}"
        )
    part = "the backbone of TinyDet" if _is_backbone(tensors) else "TinyDet"
    return f"checkpoint {path} does not fit {part}-{variant}: {problem}; give the file as published"
