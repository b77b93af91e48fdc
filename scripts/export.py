#!/usr/bin/env python3
"""`tinydet export` from a checkout: see `export.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.export import main

if __name__ == "__main__":
    run(main)
