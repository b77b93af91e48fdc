#!/usr/bin/env python3
"""`tinydet benchmark-input` from a checkout: see `benchmark_input.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.benchmark_input import main

if __name__ == "__main__":
    run(main)
