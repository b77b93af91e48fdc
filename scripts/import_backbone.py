#!/usr/bin/env python3
"""`tinydet import-backbone` from a checkout: see `import_backbone.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.import_backbone import main

if __name__ == "__main__":
    run(main)
