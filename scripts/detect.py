#!/usr/bin/env python3
"""`tinydet detect` from a checkout: see `detect.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.detect import main

if __name__ == "__main__":
    run(main)
