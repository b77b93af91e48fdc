#!/usr/bin/env python3
"""`tinydet import-checkpoint` from a checkout: see `import_checkpoint.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.import_checkpoint import main

if __name__ == "__main__":
    run(main)
