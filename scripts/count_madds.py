#!/usr/bin/env python3
"""`tinydet count-madds` from a checkout: see `count_madds.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.count_madds import main

if __name__ == "__main__":
    run(main)
