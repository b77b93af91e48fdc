"""The commands, one a module: what `tinydet NAME` and scripts/NAME.py run. Each parses sys.argv, calls and prints."""
