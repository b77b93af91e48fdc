"""Find objects in images, videos and cameras with a .tflite: tinydet_lite's command."""

from tinydet_lite.commands.detect import main

__all__ = ["main"]
