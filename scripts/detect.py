"""Find objects in images, videos and cameras with a .tflite: see `detect.py --help`."""

from tinydet_lite.cli import run
from tinydet_lite.commands.detect import main

if __name__ == "__main__":
    run(main)
