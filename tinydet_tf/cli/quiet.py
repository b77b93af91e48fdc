"""Says that TensorFlow is being loaded, and keeps to itself what its C++ prints then: oneDNN is on, there is no GPU.

TF_CPP_MIN_LOG_LEVEL does not silence these lines, because they come before TensorFlow reads it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from tinydet_lite.status import doing

#: With one of these in TF_CPP_MIN_LOG_LEVEL somebody wants to see it all.
_TALKATIVE = ("0", "1")


def quiet_tensorflow() -> None:
    """From now on the first import of tensorflow prints nothing, unless it fails: then all of it is printed."""
    if "tensorflow" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in _TALKATIVE:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with doing("loading TensorFlow"), _held_back():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # looks for GPUs, and complains where there are none

    def __getattr__(self, name: str) -> object:
        # What else is asked of a loader, such as resources of the package.
        return getattr(self._loader, name)


@contextmanager
def _held_back() -> Iterator[None]:
    """What is written to the standard error's file descriptor meanwhile is lost, or printed if the block raises."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as file:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            file.seek(0)
            os.write(2, file.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
