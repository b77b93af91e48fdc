"""The trained model that comes with the package: TinyDet-S on digits, int8 (docs/digits_s.md says how it was made)."""

from __future__ import annotations

from pathlib import Path

#: Finds handwritten digits. `make shipped-model` makes it.
DIGITS = Path(__file__).with_name("digits_s_int8.tflite")
