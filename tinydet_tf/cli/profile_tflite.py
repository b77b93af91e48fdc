"""Time each operator of a .tflite, inside the delegate too: tinydet_lite's command."""

from tinydet_lite.commands.profile import main

__all__ = ["main"]
