#!/usr/bin/env python3
"""`tinydet benchmark-training` from a checkout: see `benchmark_training.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.benchmark_training import main

if __name__ == "__main__":
    run(main)
