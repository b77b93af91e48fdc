"""TinyDet (arXiv 2304.03428) in TensorFlow/Keras: train, evaluate, export to one builtin-only .tflite."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# TFMOT takes Keras 2 models only. TensorFlow reads this when it is imported, so it has to be set before.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN's kernels train 1.8 times as fast (docs/performance.md), but where the processor has no VNNI TensorFlow leaves
# them off unless it is told. It reads this when it is imported, too.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    from tinydet_tf.keras_detector import open_detector as load_detector
    from tinydet_tf.model.detector import TinyDet, build_detector

__all__ = ["TinyDet", "__version__", "build_detector", "load_detector"]


def __getattr__(name: str) -> Any:
    # Lazy: `import tinydet_tf.config` and --help must not wait seconds for TensorFlow.
    if name in ("TinyDet", "build_detector"):
        from tinydet_tf.model import detector

        return getattr(detector, name)
    if name == "load_detector":
        from tinydet_tf.keras_detector import open_detector

        return open_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
