"""Time one or several .tflite files side by side: see `benchmark.py --help`."""

from tinydet_lite.cli import run
from tinydet_lite.commands.benchmark import main

if __name__ == "__main__":
    run(main)
