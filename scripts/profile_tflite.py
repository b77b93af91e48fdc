"""Time each operator of a .tflite, inside the delegate too: see `profile_tflite.py --help`."""

# Not profile.py: scripts/ comes first where Python looks for modules, and cProfile would import it.

from tinydet_lite.cli import run
from tinydet_lite.commands.profile import main

if __name__ == "__main__":
    run(main)
