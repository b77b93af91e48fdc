"""What a run's detector starts from: weights that it is given, those that come along, or random ones (train.start)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tinydet_tf.config import DIGITS, STARTS, Config
from tinydet_tf.data.locating import some
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.starts import start_file
from tinydet_tf.training.qat.start import check_qat_weights
from tinydet_tf.weights import Initialized, initialize, placeholder_names, read_config, weights_file

_LOG = logging.getLogger(__name__)
#: The layer whose weights are the classes'.
_CLASSES = "rcnn_score"


def weights_to_start_from(config: Config) -> Path | None:
    """Those of --init, else those that come along, if `train.start` wants them and there are some; None: random ones.

    Raises:
      UserError: no such file, or the one that comes along is damaged.
    """
    start = config.train.start
    if start in STARTS:
        return start_file(config.model) if start == DIGITS else None
    return weights_file(start)


def begin(detector: TinyDet, config: Config) -> None:
    """Gives a new detector the weights that its run starts from, and logs which.

    Of those that are given, also of a backbone alone or of other classes, what matches by name and shape is taken; of
    those that come along nothing that is the digits' alone.

    Args:
      detector: with random weights, which stay where there are no others.
      config: of the run.

    Raises:
      UserError: no such file, damaged, of another backbone, or, with `train.qat`, not of the whole network.
    """
    file = weights_to_start_from(config)
    if file is None:
        if config.train.start == DIGITS:
            _LOG.info("starting from random weights: no others come along for this network")
        return
    if config.train.start != DIGITS:
        started = initialize(detector, file, variant=config.variant)
        if config.train.qat:
            check_qat_weights(config, started, file)
        report_start(started, file, config.class_names)
    else:
        theirs = read_config(file)
        other = theirs is None or theirs.class_names != config.class_names
        started = initialize(detector, file, variant=config.variant, fresh=(_CLASSES,) if other else ())
        _LOG.info(
            "starting from weights that come along and have seen the digits, %d layers; --set train.start=random for "
            "random ones", len(started.taken),
        )  # fmt: skip


def report_start(result: Initialized, init: Path, class_names: tuple[str, ...]) -> None:
    """Logs which layers a run does not start from its --init, and what it was trained with that is otherwise here."""
    count = len(result.taken) + len(result.left)
    different = [f"model.{name} {_plain(theirs)} (here {_plain(ours)})"
                 for name, (theirs, ours) in result.different.items()]  # fmt: skip
    named = result.class_names not in ((), placeholder_names(len(result.class_names)))
    if _CLASSES in result.taken and named and result.class_names != class_names:
        theirs, ours = (some(names) for names in (result.class_names, class_names))
        different.append(f"classes {theirs} (here {ours})")
    if different:
        _LOG.warning(
            "%d of %d layers start from %s, which was trained with other settings: %s; under these its weights mean "
            "something else, which training has to mend",
            len(result.taken), count, init, ", ".join(different),
        )  # fmt: skip
    else:
        _LOG.info("%d of %d layers start from %s", len(result.taken), count, init)
    if result.left:
        shown = ", ".join(result.left[:8]) + (f" and {len(result.left) - 8} more" if len(result.left) > 8 else "")
        _LOG.info("not in it, or of another shape, and therefore fresh: %s", shown)


def _plain(value: Any) -> str:
    """A value as YAML has it."""
    return str(list(value) if isinstance(value, tuple) else value).lower()
