#!/usr/bin/env python3
"""`tinydet evaluate` from a checkout: see `evaluate.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.evaluate import main

if __name__ == "__main__":
    run(main)
