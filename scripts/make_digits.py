#!/usr/bin/env python3
"""`tinydet make-digits` from a checkout: see `make_digits.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.make_digits import main

if __name__ == "__main__":
    run(main)
