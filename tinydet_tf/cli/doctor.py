"""Print versions, processor, runtimes and what training can use, and try the model that comes along: what a bug report
needs. Exit code: 0 all is well; 1 something needs to be done, which a line says."""

import argparse
import importlib.metadata
import os
from collections.abc import Iterator

import tinydet_lite
import tinydet_tf
from tinydet_lite.commands.doctor import told
from tinydet_lite.lab.checkup import Finding, check_up


def training() -> Iterator[Finding]:
    """What TensorFlow is here, its devices, and the precisions that a step was tried in."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError as error:
        yield Finding("training", f"TensorFlow does not load: {error}", "pip install --force-reinstall tensorflow")
        return
    from tinydet_lite.errors import printable
    from tinydet_tf.config import PRECISIONS
    from tinydet_tf.training.run.precision import missing_kernel

    devices = ", ".join(device.name.partition(":")[2] for device in tf.config.list_physical_devices())
    keras = importlib.metadata.version("tf-keras")
    yield Finding("training", f"TensorFlow {tf.__version__}, tf-keras {keras}, devices {devices}")
    for precision in PRECISIONS[1:]:
        reason = missing_kernel(precision)
        text = "can be trained with" if reason is None else f"not on this processor: {reason}; float32 always works"
        yield Finding("precision", f"{precision}: {printable(text)}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    versions = f"tinydet-tf {tinydet_tf.__version__}, tinydet-lite {tinydet_lite.__version__}"
    told([Finding("version", versions)], check_up(), training())
