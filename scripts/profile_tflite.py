#!/usr/bin/env python3
"""`tinydet profile` from a checkout: see `profile_tflite.py --help`."""

# Not profile.py: scripts/ comes first where Python looks for modules, and cProfile would import it.

from tinydet_lite.cli import run
from tinydet_tf.cli.profile_tflite import main

if __name__ == "__main__":
    run(main)
