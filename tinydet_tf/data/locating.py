"""Finds the files that annotations name, also where a name is written another way than the file system has it.

A json, an xml or a list is often written on one system and read on another: with Windows' separators, percent-encoding,
decomposed letters (macOS), another case, the folders of the machine that wrote it, or the prefix that a labelling tool
puts before uploaded files. Such a name is resolved only where exactly one file fits; two that fit are an error.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar
from urllib.parse import unquote

from tinydet_lite.errors import UserError, printable
from tinydet_tf.data.labelled import file_names, folders_below, shown

_LOG = logging.getLogger(__name__)

#: How many names a message gives before it only counts.
NAMED = 3
#: Label Studio puts eight hexadecimal digits before the name of an uploaded file, and makes its spaces underscores.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}(-|__?)(?=.)")
#: Label Studio names a file that it serves from a folder by an address: .../data/local-files/?d=folder/name.jpg.
_QUERY = re.compile(r"[?&]d=([^&]*)")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://[^/]*/", re.IGNORECASE)

Parts = tuple[str, ...]
File = TypeVar("File")


def some(names: Collection[str]) -> str:
    """The first names of many, for a message: "a, b, c, ..."."""
    return ", ".join(map(printable, list(names)[:NAMED])) + (", ..." if len(names) > NAMED else "")


def pass_over(where: Path, names: Collection[str], what: str) -> None:
    """Counts and names in a warning what is not read; nothing where there is nothing."""
    if names:
        _LOG.warning("%s: passed over: %d %s (%s)", where, len(names), what, some(names))


def plain(name: str) -> str:
    """A name in composed letters and without case: two names that people take for the same are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _decoded(name: str) -> str:
    return plain(unquote(name))


def _without_prefix(name: str) -> str:
    return _UPLOAD_PREFIX.sub("", _decoded(name)).replace(" ", "_")


def _may_be(name: str, other: str) -> bool:
    """Not where both have such a prefix and it differs: these are two uploads, or two dates, which look like one."""
    ours, theirs = (_UPLOAD_PREFIX.match(_decoded(given)) for given in (name, other))
    return ours is None or theirs is None or ours[0][:8] == theirs[0][:8]


#: Ways to read the last part of a name, the surest first. A file and a name fit where one way makes them equal.
READINGS = (plain, _decoded, _without_prefix)


def _readings(files: Iterable[File], name_of: Callable[[File], str]) -> list[dict[str, list[File]]]:
    """For each of READINGS an index: a name, read so -> the files of such a name."""
    indices = []
    for read in READINGS:
        index: dict[str, list[File]] = {}
        for file in files:
            index.setdefault(read(name_of(file)), []).append(file)
        indices.append(index)
    return indices


class StemFinder:
    """Finds files of one folder by a name without its suffix, as a picture's labels are found by the picture's name.

    Args:
        names: the files' names, or paths relative to the folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.by_stem: dict[str, list[str]] = {}
        for name in names:
            self.by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
        self._indices: list[dict[str, list[str]]] | None = None  # for each of READINGS: stem, read so -> stems

    def find(self, stem: str, owners: Container[str]) -> list[str]:
        """The files of this stem; where there is none, those of a stem that READINGS make equal to it.

        Args:
            owners: stems that have files of their own; of these nothing is taken for another.
        """
        if stem in self.by_stem:
            return self.by_stem[stem]
        if self._indices is None:
            self._indices = _readings(self.by_stem, str)
        for read, index in zip(READINGS, self._indices, strict=True):
            stems = [own for own in index.get(read(stem), []) if own not in owners and _may_be(stem, own)]
            if stems:
                return [name for own in stems for name in self.by_stem[own]]
        return []


def is_inside(name: str) -> bool:
    """Whether a name is a path that cannot leave its folder, by the rules of Windows too."""
    windows = PureWindowsPath(name)
    inside = bool(windows.parts) and not windows.drive and not windows.root and ".." not in windows.parts
    return inside and is_path(name)


def is_path(text: str) -> bool:
    """Whether the system could have a file of this name at all."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


class FileFinder:
    """Finds files below a folder by the names that an annotation file gives them.

    Exact names cost one listing of each folder that they name. The rest of the tree is listed only when a name is not
    found so, once; a search then costs about as much as there are files of the same name.

    Args:
        folder: in which all files are.
        source: the annotation file, for messages.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self._folder, self._source = folder, source
        self.listings: dict[str, set[str]] = {}  # folder below `folder` -> names
        self._tree: list[Parts] | None = None
        self._folders: set[str] = set()  # plain names of all folders of the tree
        self._index: list[dict[str, list[Parts]]] = []  # for each of READINGS: last part, read so -> files

    def find(self, names: Sequence[str]) -> list[Path | None]:
        """The file of each name; None where none fits. What was found under another name is told in one line.

        Raises:
            UserError: several files fit a name, or two names the same file; or a folder cannot be read.
        """
        found = [self._exact(name) for name in names]
        taken = {path for path in found if path is not None}
        owners: dict[Path, str] = {}
        guessed: list[tuple[str, Path]] = []
        for index, name in enumerate(names):
            if found[index] is not None:
                continue
            fits = [path for path in self._fitting(name) if path not in taken]
            if len(fits) > 1:
                several = some([self._relative(path) for path in fits])
                raise UserError(
                    f"{self._source} names {shown.repr(name)}, which is not in {self._folder}, where several files "
                    f"fit ({several}); write the path of one"
                )
            if not fits:
                continue
            if owners.setdefault(fits[0], name) != name:
                raise UserError(
                    f"{self._source} names {shown.repr(owners[fits[0]])} and {shown.repr(name)}, which fit the same "
                    f"file {self._relative(fits[0])} of {self._folder}; write the path of each"
                )
            found[index] = fits[0]
            guessed.append((name, fits[0]))
        if guessed:
            first, path = guessed[0]
            _LOG.warning(
                "%s: %d of %d file names are written another way than in %s; for each the one file that fits is "
                "taken: %s is %s", self._source, len(guessed), len(names), self._folder, shown.repr(first),
                self._relative(path),
            )  # fmt: skip
        return found

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _exact(self, name: str) -> Path | None:
        if not is_inside(name):
            return None
        relative = PurePosixPath(name)
        parent = str(relative.parent)
        if parent not in self.listings:
            folder = self._folder / parent
            self.listings[parent] = set(file_names(folder)) if folder.is_dir() else set()
        return self._folder / relative if relative.name in self.listings[parent] else None

    def _fitting(self, name: str) -> list[Path]:
        """The files that a name means: those of the surest reading, and of these with the longest path in common."""
        if not is_path(name):
            return []
        self._list_tree()
        asked = _parts(name)
        if not asked:
            return []
        for read, index in zip(READINGS, self._index, strict=True):
            alike = [file for file in index.get(read(asked[-1]), []) if _may_be(asked[-1], file[-1])]
            rated = [(self._in_common(asked, file), file) for file in alike]
            best = max((common for common, _ in rated), default=0)
            if best:
                return [self._folder.joinpath(*file) for common, file in rated if common == best]
        return []

    def _in_common(self, asked: Parts, file: Parts) -> int:
        """How many last parts of two paths agree; 0 where the rest of `asked` names a folder that does exist."""
        common = 1  # the file's name, by whichever reading
        while common < min(len(asked), len(file)) and _decoded(asked[-1 - common]) == _decoded(file[-1 - common]):
            common += 1
        # train/a.jpg is not val/a.jpg; /home/somebody/set/a.jpg may be.
        return 0 if any(_decoded(part) in self._folders for part in asked[:-common]) else common

    def _list_tree(self) -> None:
        if self._tree is not None:
            return
        self._tree = []
        for folder in folders_below(self._folder):
            parts = folder.relative_to(self._folder).parts
            self._folders.update(map(_decoded, parts))
            self._tree += [(*parts, name) for name in file_names(folder)]
        self._index = _readings(self._tree, lambda file: file[-1])


def _parts(name: str) -> Parts:
    """The folders and the name that a file name, a path of any system or an address means."""
    query = _QUERY.search(name)
    if query:
        name = unquote(query[1])
    elif _SCHEME.match(name):
        name = _SCHEME.sub("", name).partition("?")[0]
    parts = name.replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", part))
