#!/usr/bin/env python3
"""`tinydet benchmark` from a checkout: see `benchmark.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.benchmark import main

if __name__ == "__main__":
    run(main)
