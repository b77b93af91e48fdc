#!/usr/bin/env python3
"""`tinydet receptive-field` from a checkout: see `receptive_field.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.receptive_field import main

if __name__ == "__main__":
    run(main)
