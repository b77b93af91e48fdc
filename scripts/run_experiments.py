#!/usr/bin/env python3
"""`tinydet run-experiments` from a checkout: see `run_experiments.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.run_experiments import main

if __name__ == "__main__":
    run(main)
