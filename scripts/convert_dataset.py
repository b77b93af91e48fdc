#!/usr/bin/env python3
"""`tinydet convert-dataset` from a checkout: see `convert_dataset.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.convert_dataset import main

if __name__ == "__main__":
    run(main)
