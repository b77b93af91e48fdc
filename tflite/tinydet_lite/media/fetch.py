"""What stands behind a URL: a picture, which is fetched once and whole, a video file, or a stream of pictures."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import PurePosixPath
from time import monotonic
from typing import Any

from ..errors import UserError, os_reason

FETCHED = ("http", "https", "ftp")

# For each answer of the server, and for a whole picture.
_TIMEOUT_SECONDS = 10.0
_WHOLE_SECONDS = 60.0
# A photograph of 100 megapixels is about half of it.
_MOST_BYTES = 64 << 20
_PIECE = 1 << 16
# How JPEG, PNG, GIF and WebP begin: many servers call every file "application/octet-stream".
_BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP", re.DOTALL)
_BEGINNING = 12

# By which a server says that no other program would get more: not allowed, not there.
_REFUSED = (401, 403, 404, 410)

# What urllib raises: its own errors are OSErrors; a malformed URL is a ValueError.
_FETCH_ERRORS = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True)
class Found:
    """What a URL names.

    Attributes:
        kind: "picture", "video" (a file with an end) or "stream" (anything else, for OpenCV to try).
        data: a picture's bytes.
    """

    kind: str
    data: bytes = b""


def look_at(url: str, named_picture: bool) -> Found:
    """Ask a server once what a URL is; a picture comes with the answer.

    Args:
        url: of one of the FETCHED schemes, maybe with name:password@.
        named_picture: its path ends like a picture's. Then it is one, unless the server says that it is a stream.

    Raises:
        UserError: it is a picture, and does not come, or is too large; or the server says that nothing is there for us.
    """
    try:
        with _open(url) as answer:
            kind, beginning = _kind(answer, named_picture)
            return Found(kind, beginning + _rest(answer, url, len(beginning)) if kind == "picture" else b"")
    except UserError:
        raise
    except _FETCH_ERRORS as error:
        refused = isinstance(error, urllib.error.HTTPError) and error.code in _REFUSED
        if not named_picture and not refused:
            return Found("stream")
        raise UserError(f"{without_secrets(url)} cannot be fetched ({_reason(error)})") from error


def suffix_of(url: str) -> str:
    """Of the URL's path, in small letters: ".jpg" of http://host/a.JPG?width=640."""
    return PurePosixPath(_path_of(url)).suffix.lower()


def file_name_of(url: str) -> str:
    """The last part of the URL's path as a file's name: "a b.jpg" of http://host/a%20b.jpg."""
    name = PurePosixPath(urllib.parse.unquote(_path_of(url)).replace("\\", "/")).name
    # A file system takes 255 bytes, and what is made of the name is longer.
    return "".join(letter for letter in name if letter.isprintable())[-60:] or "picture"


def without_secrets(url: str) -> str:
    """rtsp://name:password@host/1?token=x -> rtsp://host/1: it goes to terminals and files."""
    return re.sub(r"\?.*", "", re.sub(r"(?<=://)[^/]*@", "", url)) if "://" in url else url


def _path_of(url: str) -> str:
    return re.sub(r"[?#].*", "", re.sub(r"^\w+://[^/?#]*", "", url), flags=re.DOTALL)


def _open(url: str) -> Any:
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    handlers: list[urllib.request.BaseHandler] = []
    if parts.scheme != "ftp" and parts.username is not None:
        # To the host that asks for it, as it asks for it, and to no other that it may send us to.
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        name, password = (urllib.parse.unquote(word or "") for word in (parts.username, parts.password))
        passwords.add_password(None, f"{parts.scheme}://{netloc}", name, password)
        handlers = [urllib.request.HTTPDigestAuthHandler(passwords), urllib.request.HTTPBasicAuthHandler(passwords)]
        parts = parts._replace(netloc=netloc)
    # A space or a letter outside of ASCII is typed as it is; what is quoted already stays.
    parts = parts._replace(
        path=urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~"),
        query=urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?"),
        fragment="",
    )
    opener = urllib.request.build_opener(*handlers)
    opener.addheaders = [("User-Agent", "tinydet-lite")]
    return opener.open(urllib.parse.urlunsplit(parts), timeout=_TIMEOUT_SECONDS)


def _kind(answer: Any, named_picture: bool) -> tuple[str, bytes]:
    """What is there, and its first bytes as far as they were read to see it."""
    kind = (answer.headers.get("Content-Type") or "").lower()
    has_end = answer.headers.get("Content-Length") is not None
    if kind.startswith("multipart/"):
        return "stream", b""
    if kind.startswith("image/"):
        return "picture", b""
    if kind.startswith("video/"):
        return ("video" if has_end else "stream"), b""
    if named_picture:
        return "picture", b""
    beginning = answer.read(_BEGINNING) if has_end else b""
    return ("picture" if _BEGINNINGS.match(beginning) else "stream"), beginning


def _rest(answer: Any, url: str, size: int) -> bytes:
    pieces = []
    end = monotonic() + _WHOLE_SECONDS
    while piece := answer.read1(_PIECE) if hasattr(answer, "read1") else answer.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise UserError(f"{without_secrets(url)} is larger than {_MOST_BYTES >> 20} MB; fetch it yourself")
        if monotonic() > end:
            raise UserError(f"{without_secrets(url)} did not come whole in {_WHOLE_SECONDS:g} s; fetch it yourself")
    return b"".join(pieces)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}".strip()
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        return os_reason(error.reason)
    return os_reason(error) if isinstance(error, OSError) else str(error) or type(error).__name__
