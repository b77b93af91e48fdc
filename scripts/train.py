#!/usr/bin/env python3
"""`tinydet train` from a checkout: see `train.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.train import main

if __name__ == "__main__":
    run(main)
