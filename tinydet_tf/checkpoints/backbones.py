"""ImageNet weights of others as the weights of a detector's backbone.

The detector names layers after the tables' rows, whoever trained the weights, so that counting and --init, which go by
names, work for these backbones too. What the other network has behind its last block, and its classifier, is not used.
The detector's last block, for stride 64, exists in none of them and keeps its random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.checkpoints.efficientnet_lite import fill_efficientnet_lite
from tinydet_tf.checkpoints.keras_applications import fill_application
from tinydet_tf.config import Config, model_config
from tinydet_tf.model.backbones import BACKBONES
from tinydet_tf.model.detector import TinyDet

#: Given instead of a file: the weights that Keras downloads, or those of an installed package.
IMAGENET = "imagenet"

#: Sets layers (by name) of a detector from a file; None: from IMAGENET. The backbone is the detector's.
Fill = Callable[[TinyDet, Sequence[str], Path | None], None]

SOURCES: dict[str, Fill] = {
    "mobilenetv2": fill_application,
    "mobilenetv3large": fill_application,
    "efficientnet_lite0": fill_efficientnet_lite,
}


@dataclass(frozen=True)
class Imported:
    """A detector whose backbone has the weights of another network.

    Attributes:
      detector: all weights outside its backbone are random.
      config: of the detector; it names no classes.
      taken: the backbone's layers whose weights were imported.
      fresh: those with random weights.
    """

    detector: TinyDet
    config: Config
    taken: tuple[str, ...]
    fresh: tuple[str, ...]


def import_backbone(backbone: str, weights: str | Path, variant: str) -> Imported:
    """A detector whose backbone has ImageNet weights.

    Args:
      backbone: a key of SOURCES.
      weights: IMAGENET, or a file: for Keras's networks in a format that Keras loads, for efficientnet_lite0 a PyTorch
        state_dict; with or without the classifier.
      variant: of the detector.

    Raises:
      UserError: no such backbone or variant, one that does not go with the other, no network or package to take weights
        from, or a file that is missing, damaged, or of another network.
    """
    if backbone not in SOURCES:
        raise UserError(f"there are no weights to import for backbone {backbone!r}; choose one of {', '.join(SOURCES)}")
    config = Config(variant=variant, model=model_config(variant, backbone=backbone))
    detector = TinyDet(config.model, 1)
    fresh_block = f"block{len(BACKBONES[backbone].blocks)}_"
    names = [layer.name for layer in detector.backbone_model().layers if layer.weights]
    taken = tuple(name for name in names if not name.startswith(fresh_block))
    SOURCES[backbone](detector, taken, None if weights == IMAGENET else Path(weights))
    return Imported(detector, config, taken, tuple(name for name in names if name.startswith(fresh_block)))
