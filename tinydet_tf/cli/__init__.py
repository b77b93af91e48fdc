"""The commands, one a module: what `tinydet NAME` and scripts/NAME.py run. Each parses sys.argv, calls and prints."""

from tinydet_tf.cli.quiet import quiet_tensorflow

quiet_tensorflow()
