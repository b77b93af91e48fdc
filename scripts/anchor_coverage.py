#!/usr/bin/env python3
"""`tinydet anchor-coverage` from a checkout: see `anchor_coverage.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.anchor_coverage import main

if __name__ == "__main__":
    run(main)
