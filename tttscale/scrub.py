"""Removing credentials from texts, as the last step before a message is shown.

`Location` keeps them out of what we write ourselves. Libraries repeat in their errors what they were given,
whole or in parts, so every error, log line and traceback passes through `scrubbed`.
"""

import base64
import os
import re
from urllib.parse import parse_qsl, quote, quote_plus, unquote

HIDDEN = "***"
_SHORTEST = 4
"""Shorter secrets are hidden inside URLs only: they occur in many words."""
_LONGEST = 1 << 14
_AT, _COLON = (
    re.compile(f"{sign}|%(?:25)*{code}", re.I) for sign, code in (("@", 40), (":", "3a"))
)
_AFTER_PATH = re.compile(r"[?#]|%(?:25)*(?:3f|23)", re.I)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,30}:/{1,3}[^\s'\"<>`]*", re.I)
_ENCODED_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,30}%(?:25)*3a%(?:25)*2f[^\s'\"<>`]*", re.I)
_NO_SCHEME = re.compile(r"(?<![^\s'\"=(\[{,/])[^\s'\"/:@=]{1,100}:[^\s'\"/@]{1,1000}@(?=[\w\[])")
_QUERY = re.compile(r"(?<=[\w/.%-])\?[\w.~%-]{1,100}=[^\s'\"<>`]*")
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN(?!S|IZER)|PASSW|API_?KEY|(ACCESS|ACCOUNT|STORAGE|PRIVATE)_KEY", re.I
)
_CONTAINER = ("az", "azure", "abfs", "abfss", "adl")
"""Schemes in which the text before the @ is a container, unless it has a colon."""

_PLAIN_WORDS = {"true", "false", "none", "null", "auto", "https", "http"}
"""Never secrets, though they may be given in place of one; our own messages use them."""

_secrets: set[str] = set()


def remember(*secrets: str) -> None:
    """Hide these from now on wherever they occur, as they are or percent-encoded."""
    for secret in secrets:
        for form in (secret, unquote(secret), quote(unquote(secret), safe=""), quote_plus(secret)):
            if len(form) >= _SHORTEST and form.lower() not in _PLAIN_WORDS:
                _secrets.add(form)


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a credential, such as api_key."""
    return _SECRET_NAME.search(name) is not None


def remember_userinfo(userinfo: str) -> None:
    """Hide NAME:PASSWORD or TOKEN of a URL, and its form in HTTP headers; a name alone is no secret."""
    name, colon, password = userinfo.partition(":")
    remember(userinfo, password if colon else name)
    remember(base64.b64encode(unquote(userinfo).encode()).decode())


def remember_query(query: str) -> None:
    """Hide a URL's query, and its values except numbers and short words."""
    remember(query)
    remember(*(value for _, value in parse_qsl(query) if len(value) > 5 and not value.isdigit()))


def split_url(url: str) -> tuple[str, str, str]:
    """Split a URL into the text before its host, the URL without credentials, and the text after its path.

    A password may hold a `/` or `@` that should be percent-encoded: too much is cut rather than too little.
    """
    scheme, slashes, rest = re.split(r"(:/{1,3})", url, maxsplit=1)
    authority = rest.partition("/")[0]
    userinfo, last = "", None
    if _AT.search(authority):
        *_, last = _AT.finditer(authority)
    elif "@" in rest and _has_password(authority):
        *_, last = re.finditer("@", rest)
    if last and (scheme.lower() not in _CONTAINER or _COLON.search(rest[: last.start()])):
        userinfo, rest = rest[: last.start()], rest[last.end() :]
    found = _AFTER_PATH.search(rest)
    suffix = rest[found.end() :] if found else ""
    rest = rest[: found.start()] if found else rest
    host, slash, path = rest.partition("/")
    if ":" in host and "@" in path:  # host and port, or a name and a password of digits?
        userinfo, path = userinfo + path.rpartition("@")[0], f"{HIDDEN}@{path.rpartition('@')[2]}"
    return userinfo, f"{scheme}{slashes}{host}{slash}{path}", suffix


def scrubbed(text: str) -> str:
    """`text` without credentials."""
    for secret in sorted(_secrets | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _ENCODED_URL.sub(HIDDEN, text)
    text = _URL.sub(lambda match: _hide(match[0]), text)
    return _QUERY.sub(f"?{HIDDEN}", _NO_SCHEME.sub(f"{HIDDEN}@", text))


def shortened(value: object, most: int = 60) -> str:
    """`repr(value)`, scrubbed before it is cut: half a password would not be recognized."""
    text = scrubbed(repr(value)[:_LONGEST])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _hide(url: str) -> str:
    plain = url.rstrip(".,:;)]}")
    userinfo, shown, suffix = split_url(plain)
    if userinfo:
        scheme, slashes, rest = re.split(r"(:/{1,3})", shown, maxsplit=1)
        shown = f"{scheme}{slashes}{HIDDEN}@{rest}"
    return f"{shown}?{HIDDEN}{url[len(plain) :]}" if suffix else shown + url[len(plain) :]


def _has_password(authority: str) -> bool:
    """Whether NAME:REST is not a host with its port."""
    _, colon, port = authority.partition(":")
    return bool(colon) and not (port.isdecimal() and int(port) < 1 << 16)


def _of_environment() -> set[str]:
    """Values of environment variables that libraries read credentials from."""
    return {
        value
        for name, value in os.environ.items()
        if is_secret_name(name)
        and len(value) >= 2 * _SHORTEST
        and not value.startswith(("/", ".", "~"))  # the path of a file that holds one
    }
