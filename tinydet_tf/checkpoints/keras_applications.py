"""keras.applications' MobileNetV2 and MobileNetV3Large, alpha 1, as the weights of a detector's backbone.

Keras' layers have the same shapes and layouts as the detector's; only the names differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_tf.model.detector import TinyDet

#: The detector's name of a layer in a block -> Keras's name behind the block's prefix.
_CONVS = {part: part for part in ("expand", "depthwise", "project")}
_V2_PARTS = _CONVS | {f"{part}_bn": f"{part}_BN" for part in _CONVS}
_V3_PARTS = _CONVS | {f"{part}_bn": f"{part}/BatchNorm" for part in _CONVS}
_V3_PARTS |= {"se_reduce": "squeeze_excite/Conv", "se_expand": "squeeze_excite/Conv_1"}


@dataclass(frozen=True)
class Application:
    """A network of keras.applications. `first` and `block` are the prefixes of layer names in Keras's block 0 and N."""

    build: Callable[..., Any]
    stem: dict[str, str]
    first: str
    block: str
    parts: dict[str, str]

    def name(self, layer: str) -> str:
        """Keras's name of a layer of the detector's backbone that has weights."""
        if layer in self.stem:
            return self.stem[layer]
        block, _, part = layer.partition("_")
        index = int(block.removeprefix("block")) - 1
        return (self.block.format(index) if index else self.first) + self.parts[part]


APPLICATIONS: dict[str, Application] = {
    "mobilenetv2": Application(
        keras.applications.MobileNetV2,
        {"stem": "Conv1", "stem_bn": "bn_Conv1"},
        "expanded_conv_",
        "block_{}_",
        _V2_PARTS,
    ),
    "mobilenetv3large": Application(
        keras.applications.MobileNetV3Large,
        {"stem": "Conv", "stem_bn": "Conv/BatchNorm"},
        "expanded_conv/",
        "expanded_conv_{}/",
        _V3_PARTS,
    ),
}


def fill_application(detector: TinyDet, layers: Sequence[str], file: Path | None) -> None:
    """Sets layers of a detector's backbone, a key of APPLICATIONS.

    Args:
      layers: names of those that have weights.
      file: in a format that Keras loads, with or without the classifier; None: Keras's own ImageNet weights, which
        Keras downloads.

    Raises:
      UserError: no network, or a file that is missing, damaged, or of another network.
    """
    backbone = detector.config.backbone
    application = APPLICATIONS[backbone]
    source = _download(application, backbone) if file is None else _load(application, backbone, file)
    ours = detector.named_layers()
    for name in layers:
        ours[name].set_weights(source.get_layer(application.name(name)).get_weights())


def _download(application: Application, backbone: str) -> Any:
    try:
        return application.build(input_shape=(224, 224, 3), include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises no narrower one
        reason = " ".join(str(error).split())
        if "fetch failure" not in reason and not isinstance(error, OSError):
            raise
        raise UserError(
            f"the ImageNet weights of {backbone} cannot be downloaded ({reason}); on a machine without network give "
            "--weights FILE.h5, which Keras leaves in ~/.keras/models on one that has it"
        ) from error


def _load(application: Application, backbone: str, file: Path) -> Any:
    if not file.is_file():
        raise UserError(f"--weights {file} does not exist; give 'imagenet' or an .h5 file of Keras's {backbone}")
    reasons = []
    for include_top in (False, True):
        shape = {"include_top": include_top} | ({"classes": 1000} if include_top else {})
        source = application.build(input_shape=(224, 224, 3), weights=None, **shape)
        try:
            source.load_weights(str(file))
        except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            reasons.append(" ".join(str(error).split())[:160])
            continue
        return source
    raise UserError(f"--weights {file} is not of Keras's {backbone} at alpha 1, or is damaged ({reasons[0]})")
