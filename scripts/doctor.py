#!/usr/bin/env python3
"""`tinydet doctor` from a checkout: see `doctor.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.doctor import main

if __name__ == "__main__":
    run(main)
