"""Time one or several .tflite files side by side: tinydet_lite's command."""

from tinydet_lite.commands.benchmark import main

__all__ = ["main"]
