"""The way back: a detector's weights under the published names and in their layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydet_tf.checkpoints.published import detector_parameters
from tinydet_tf.model.detector import TinyDet


def export_published(detector: TinyDet) -> dict[str, NDArray[np.float32]]:
    """What `import_published` takes."""
    layers = detector.named_layers()
    return {
        p.name: np.ascontiguousarray(getattr(layers[p.layer], p.weight).numpy().transpose(np.argsort(p.axes)))
        for p in detector_parameters(detector.config)
    }
