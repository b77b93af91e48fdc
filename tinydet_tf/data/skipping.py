"""Lets training go on when an image does not decode: the next image that decodes takes its place."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from tinydet_lite.errors import UserError

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")


class SkipBroken(Generic[Item]):
    """A function from an index to `load(index)`, or to that of the next index that loads; safe to call from threads.

    Each index that cannot be loaded is named in a warning, once.

    Args:
        load: raises UserError where an image does not decode.
        count: number of indices; after the last one the search goes on at the first.
        what: name of the indexed things, for the message if none can be loaded.
        skip: if False, an index that cannot be loaded raises its error.
    """

    def __init__(self, load: Callable[[int], Item], count: int, what: str, *, skip: bool) -> None:
        self._load, self._count, self._what, self._skip = load, count, what, skip
        self._broken: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Item:
        """
        Raises:
            UserError: nothing can be loaded; or, where nothing is skipped, this index cannot.
        """
        for candidate in itertools.chain(range(index, self._count), range(index)):
            if candidate in self._broken:
                continue
            try:
                return self._load(candidate)
            except UserError as error:
                if not self._skip:
                    raise
                with self._lock:
                    if candidate not in self._broken:
                        self._broken.add(candidate)
                        _LOG.warning("skipping an image in training: %s", error)
        raise UserError(f"none of {self._what} could be used; the warnings above say why")
