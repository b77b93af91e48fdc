#!/usr/bin/env python3
"""`tinydet import-keras-backbone` from a checkout: see `import_keras_backbone.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.import_keras_backbone import main

if __name__ == "__main__":
    run(main)
