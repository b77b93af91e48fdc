#!/usr/bin/env python3
"""`tinydet pretrain-backbone` from a checkout: see `pretrain_backbone.py --help`."""

from tinydet_lite.cli import run
from tinydet_tf.cli.pretrain_backbone import main

if __name__ == "__main__":
    run(main)
