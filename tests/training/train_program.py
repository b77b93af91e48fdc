"""A training run as a process of its own: devices are configured before TensorFlow starts, and it can be killed.

python train_program.py '{"folder": ..., "set": [...], "strategy": "mirrored", "devices": 2, ...}'
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from pathlib import Path

from tinydet_lite.cli import run


def main() -> None:
    options = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO)
    import tensorflow as tf

    if options.get("devices"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * options["devices"])
    if options.get("file_size"):
        # As on a full disk, every file ends here; without the signal the write fails instead.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_size"], options["file_size"]))
    from tinydet_tf.config import load_config
    from tinydet_tf.layers.blocks import BatchNorm
    from tinydet_tf.training.run import train as training
    from tinydet_tf.training.run.distribution import open_strategy
    from tinydet_tf.training.run.folder import resumed_config

    strategy = open_strategy(options.get("strategy", "one"))
    if options.get("synchronized"):
        training.BatchNorm = lambda synchronized: BatchNorm(synchronized=True)  # type: ignore[assignment]
    folder = Path(options["folder"])
    resume = options.get("resume", False)
    if resume:
        config = resumed_config(folder, options.get("set", ()))
    else:
        config = load_config(variant="S", assignments=options["set"])
    training.train(config, folder, resume=resume, strategy=strategy, verbose=0)


if __name__ == "__main__":
    run(main)
