"""Weights that come along: detectors that have learnt to find small things on the embedded digits, to start from.

A training that is given no weights starts from these (`train.start`) where there are some of its architecture: a file a
backbone, `{backbone}.weights.h5`. `make shipped-model` trains and writes them; docs/starts.md says what they gain.
"""

from __future__ import annotations

from pathlib import Path

from tinydet_tf.config import ModelConfig
from tinydet_tf.run_files import SUFFIX
from tinydet_tf.weights import other_settings, read_config

FOLDER = Path(__file__).parent
#: Values that a start may differ in: what depends on them is learnt anew within a few steps.
_MAY_DIFFER = {"input_size", "anchor_scale", "roi_finest"}


def start_file(model: ModelConfig) -> Path | None:
    """The weights that come along for an architecture; None where there are none.

    Raises:
      UserError: the file is damaged.
    """
    file = FOLDER / f"{model.backbone}{SUFFIX}"
    if not file.is_file():
        return None
    config = read_config(file)
    if config is None or set(other_settings(config.model, model)) - _MAY_DIFFER:
        return None
    return file
