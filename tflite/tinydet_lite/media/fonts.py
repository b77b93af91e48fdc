"""Fonts for labels: one of the system that has a label's letters, and what to write of letters that are nowhere.

Pillow brings a font, which has little more than ASCII. A font is named by its path, None is Pillow's own.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

from PIL import ImageFont

from ..errors import UserError

_SUFFIXES = (".ttf", ".otf", ".ttc")
# So many files are looked at; a font server's folder would take minutes.
_MOST_FONTS = 3000
# By how their file names begin, small letters alone. First those for most alphabets, then those for East Asia.
_PREFERRED = (
    "dejavusans", "notosans", "liberationsans", "arial", "segoeui", "helvetica", "roboto", "freesans", "notosanscjk",
    "sourcehansans", "wqy", "droidsansfallback", "pingfang", "msyh", "simhei", "hiragino", "applesdgothic", "malgun",
    "meiryo", "yugoth", "unifont",
)  # fmt: skip
_STYLES = re.compile(r"bold|italic|oblique|light|thin|black|condensed|narrow|mono|serif")
# These fonts draw the same box, or the alphabet's name, for every letter.
_LAST_RESORT = re.compile(r"lastresort|adobeblank")
# What every label needs: a score, and whatever `written` puts in the place of a letter.
_NEEDED = "0123456789abcdefuxU\\.#%"
_NO_LETTER = "\U0010ffff"
_PROBE_POINTS = 20


@lru_cache(64)
def open_font(path: str | None, points: float) -> ImageFont.FreeTypeFont:
    """A font of a size.

    Raises:
        UserError: it is none, or Pillow has no fonts.
    """
    if path is not None:
        try:
            return ImageFont.truetype(path, points)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be used as a font ({error}); give a TrueType file") from error
    font = ImageFont.load_default(points)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError("this Pillow was built without FreeType and cannot write labels; install Pillow from PyPI")
    return font


def check_font(path: str) -> None:
    """See that a font can write labels.

    Raises:
        UserError: it is none, or lacks digits and Latin letters.
    """
    lacking = missing(_NEEDED, path)
    if lacking:
        raise UserError(f"{path} has no {' '.join(lacking)}, which labels need; give a font with Latin letters")


def font_for(text: str) -> str | None:
    """The font that a text is written in: the first that has all its letters, else one that lacks the fewest."""
    letters = "".join(sorted(set(_composed(text))))
    return None if not missing(letters, None) else _font_for(letters)


def missing(text: str, path: str | None) -> str:
    """The letters of a text that a font does not have or that cannot be seen, each once, in order."""
    return "".join(letter for letter in dict.fromkeys(_composed(text)) if not _has(path, letter))


def written(text: str, path: str | None) -> str:
    r"""A text as a font can write it: a letter that it lacks becomes \xfc or \u7ea2, so that texts differ as before."""
    composed = _composed(text)
    lacking = missing(composed, path)
    return "".join(letter.encode("ascii", "backslashreplace").decode() if letter in lacking else letter
                   for letter in composed)  # fmt: skip


def unwritable(labels: Iterable[str], path: str | None) -> list[str]:
    """The labels with letters that the font lacks, or, without one, every font here."""
    return [label for label in labels if missing(label, font_for(label) if path is None else path)]


@cache
def system_fonts() -> tuple[str, ...]:
    """The system's font files, the most useful first."""
    paths = (
        os.path.join(folder, name)
        for root in _folders()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    )
    found = dict.fromkeys(islice(paths, _MOST_FONTS))
    return tuple(sorted((path for path in found if not _LAST_RESORT.search(_plain_name(path))), key=_order))


@cache
def _font_for(letters: str) -> str | None:
    best, fewest = None, len(missing(letters, None))
    for path in system_fonts():
        lacking = len(missing(letters, path)) if _opens(path) else fewest
        if lacking < fewest:
            best, fewest = path, lacking
        if not fewest:
            break
    return best


@cache
def _opens(path: str) -> bool:
    try:
        open_font(path, _PROBE_POINTS)
        # Some fonts open and have pictures of one size alone.
        return not missing(_NEEDED, path)
    except (UserError, OSError):
        return False


@cache
def _has(path: str | None, letter: str) -> bool:
    # Marks of direction and the like would make two texts look alike.
    return letter.isprintable() and (letter == " " or _glyph(path, letter) != _glyph(path, _NO_LETTER))


@cache
def _glyph(path: str | None, letter: str) -> tuple[float, tuple[int, int], bytes]:
    font = open_font(path, _PROBE_POINTS)
    mask = font.getmask(letter)
    return font.getlength(letter), mask.size, bytes(mask)


def _composed(text: str) -> str:
    """u and its dots as one letter, which more fonts have."""
    return unicodedata.normalize("NFC", text)


def _order(path: str) -> tuple[bool, int, str]:
    name = _plain_name(path)
    # notosanscjk before notosans: the longest beginning counts.
    ranks = [(-len(start), rank) for rank, start in enumerate(_PREFERRED) if name.startswith(start)]
    rank = min(ranks)[1] if ranks else len(_PREFERRED)
    return _STYLES.search(name) is not None, rank, path


def _plain_name(path: str) -> str:
    return re.sub(r"[^a-z]", "", Path(path).stem.lower())


def _folders() -> list[str]:
    """Where fonts are on Linux, macOS, Windows and Android."""
    home = os.path.expanduser("~")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share")
    folders = [os.path.join(folder, "fonts") for folder in [own, *shared.split(":")]]
    folders += [os.path.join(home, ".fonts"), "/run/current-system/sw/share/X11/fonts", "/system/fonts"]
    folders += [os.path.join(home, "Library/Fonts"), "/Library/Fonts", "/System/Library/Fonts"]
    for variable, below in (("WINDIR", "Fonts"), ("LOCALAPPDATA", r"Microsoft\Windows\Fonts")):
        if variable in os.environ:
            folders.append(os.path.join(os.environ[variable], below))
    return folders
