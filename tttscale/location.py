"""Paths and URLs, and which part of them may be shown.

Every path in a configuration or on the command line is parsed here, in one way.
"""

import base64
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tttscale.scrub import remember, remember_query, remember_userinfo, split_url

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_WEB = ("http", "https")
_LIKE_URL = re.compile(r"^//|^[^/]+:[^/]+@|[?&][\w.~%-]+=|%(?:25)*3a%(?:25)*2f", re.I)
_VARIABLE = re.compile(r"(?:^|/)(?:\$\w+|\$\{[^/]*\}|%[A-Za-z_]\w*%)(?=/|$)|^\$|\$\{")
_WHERE = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, the path of a file",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
"""Where obstore finds credentials, by the beginning of the scheme."""


class LocationError(ValueError):
    """A text is not a path or URL; the message does not repeat it."""


class Access(NamedTuple):
    """What a library opens. No part of it is ever printed or stored."""

    url: str
    headers: dict[str, str]


class Location(str):
    """A folder, or a URL as it may be shown and stored: as a string it holds no credentials.

    Those of an http or https URL (`NAME:PASSWORD@` and all that follows a `?`, as pre-signed URLs have it)
    stay in the memory of this process, for `reveal`.
    """

    _whole: str

    def __new__(cls, shown: str, whole: str | None = None) -> "Location":
        """Use `parse`."""
        location = super().__new__(cls, shown)
        location._whole = shown if whole is None else whole
        return location

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Parse a path or URL.

        Raises:
            LocationError: it is neither, or holds credentials that no library would read.
        """
        if isinstance(text, Location):
            return text
        if _SCHEME.match(text):
            _check_text(text)
            return _parse_url(text)
        return cls(expand(text))

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL."""
        return "://" in self

    def __truediv__(self, name: str) -> "Location":
        """The location `name` inside of it."""
        return Location(f"{self}/{name}")

    def reveal(self) -> Access:
        """The whole URL, only for the library that opens it."""
        if not self.is_remote:
            return Access(self._whole, {})
        userinfo, bare, _ = split_url(self._whole)
        if not userinfo or urlsplit(bare).scheme not in _WEB:
            return Access(self._whole, {})
        query = urlsplit(self._whole).query
        basic = base64.b64encode(unquote(userinfo).encode()).decode()
        return Access(f"{bare}?{query}" if query else bare, {"authorization": f"Basic {basic}"})

    def is_same(self, other: "Location") -> bool:
        """Whether both are the same place, with any credentials."""
        if self.is_remote or other.is_remote:
            return str(self) == str(other)
        return os.path.realpath(self) == os.path.realpath(other)


def expand(text: str) -> str:
    """Expand a leading `~` in a path on this machine.

    Raises:
        LocationError: it is not a path, or is written for a shell.
    """
    _check_text(text)
    if _SCHEME.match(text):
        _remember_all(text)
        raise LocationError("expected a path on this machine, not a URL")
    if _LIKE_URL.search(text):
        _remember_all(f"none://{text.lstrip('/')}")
        raise LocationError("expected a path or a URL; this looks like a URL without its https://")
    if _VARIABLE.search(text):
        raise LocationError(
            "expected a path; only a shell fills in variables. Write it without quotes there, or "
            "begin it with ~ for your home"
        )
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise LocationError(
            "there is no such user for ~; for a folder of that name write ./~..."
        ) from None


def _check_text(text: str) -> None:
    if not text:
        raise LocationError("expected a path, found an empty text")
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text):
        _remember_all(text)
        raise LocationError("expected a path without line breaks and other control characters")
    if text != text.strip():
        _remember_all(text)
        raise LocationError("expected a path without a space before or after it")


def _parse_url(text: str) -> Location:
    userinfo, suffix = _remember_all(text)
    text = _SCHEME.sub(lambda match: match[0].lower(), text, count=1)  # libraries know no HTTPS://
    _, bare, _ = split_url(text)
    try:
        parts, seen = urlsplit(text), urlsplit(bare)
        understood = "://" in text and parts.hostname == seen.hostname and parts.port == seen.port
    except ValueError:
        understood = False
    if not understood or "***@" in bare or (suffix and not (parts.query or parts.fragment)):
        raise LocationError(
            "this URL cannot be read; a password in it, and an @ in its path, need percent-encoding "
            "(/ is %2F, @ is %40), and its ? and # must not be encoded"
        )
    bare = bare.rstrip("/") if seen.netloc else bare
    if not (userinfo or suffix):
        return Location(bare)
    if parts.scheme.lower() not in _WEB:
        kind = next((k for k in _WHERE if parts.scheme.lower().startswith(k)), None)
        kind = "az" if parts.scheme.lower() in ("abfs", "abfss", "adl") else kind
        where = _WHERE[kind] if kind else "the environment"
        raise LocationError(
            f"no library reads credentials and parameters in such a URL. Give {bare}, and the "
            f"credentials in the environment: {where}"
        )
    whole = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Location(bare, f"{whole}?{parts.query}" if parts.query else whole)


def _remember_all(text: str) -> tuple[str, str]:
    """Hide from now on what may be secret in `text`, whether it is accepted or not."""
    if "://" not in text and not _SCHEME.match(text.strip()):
        return "", ""
    userinfo, _, suffix = split_url(text.strip())
    query, _, fragment = suffix.partition("#")
    if userinfo:
        remember_userinfo(userinfo)
    remember_query(query)
    remember(fragment)
    return userinfo, suffix
