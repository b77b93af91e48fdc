#!/usr/bin/env python3
"""`tinydet quantize-experiments` from a checkout: see `quantize_experiments.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.quantize_experiments import main

if __name__ == "__main__":
    run(main)
