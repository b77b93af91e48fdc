#!/usr/bin/env python3
"""`tinydet show-batch` from a checkout: see `show_batch.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.show_batch import main

if __name__ == "__main__":
    run(main)
