"""Take credentials out of texts: the last thing that happens to a message before anybody sees it.

`Location` keeps them out of what we write ourselves. Libraries repeat in their errors what they were given,
whole or in parts, so every error, note and traceback goes through `scrubbed`.
"""

import base64
import os
import re
from urllib.parse import parse_qsl, quote, quote_plus, unquote

HIDDEN = "***"
_SHORTEST = 4
"""Shorter secrets are hidden inside URLs only: such letters stand in many words."""
_LONGEST = 1 << 14
_AT, _COLON = (
    re.compile(f"{sign}|%(?:25)*{code}", re.I) for sign, code in (("@", 40), (":", "3a"))
)
_BEHIND_PATH = re.compile(r"[?#]|%(?:25)*(?:3f|23)", re.I)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,30}:/{1,3}[^\s'\"<>`]*", re.I)
_ENCODED_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,30}%(?:25)*3a%(?:25)*2f[^\s'\"<>`]*", re.I)
_NO_SCHEME = re.compile(r"(?<![^\s'\"=(\[{,/])[^\s'\"/:@=]{1,100}:[^\s'\"/@]{1,1000}@(?=[\w\[])")
_QUERY = re.compile(r"(?<=[\w/.%-])\?[\w.~%-]{1,100}=[^\s'\"<>`]*")
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN(?!S|IZER)|PASSW|API_?KEY|(ACCESS|ACCOUNT|STORAGE|PRIVATE)_KEY", re.I
)
_CONTAINER = ("az", "azure", "abfs", "abfss", "adl")
"""Schemes in which what stands before the @ is a container, unless it has a colon."""

_PLAIN_WORDS = {"true", "false", "none", "null", "auto", "https", "http"}
"""Whoever writes these in place of a secret has none; our own messages use them."""

_secrets: set[str] = set()


def remember(*secrets: str) -> None:
    """From now on these are hidden wherever they stand, as they are or percent-encoded."""
    for secret in secrets:
        for form in (secret, unquote(secret), quote(unquote(secret), safe=""), quote_plus(secret)):
            if len(form) >= _SHORTEST and form.lower() not in _PLAIN_WORDS:
                _secrets.add(form)


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a credential, such as api_key."""
    return _SECRET_NAME.search(name) is not None


def remember_userinfo(userinfo: str) -> None:
    """NAME:PASSWORD or TOKEN of a URL, and what HTTP makes of it; a name alone is none."""
    name, colon, password = userinfo.partition(":")
    remember(userinfo, password if colon else name)
    remember(base64.b64encode(unquote(userinfo).encode()).decode())


def remember_query(query: str) -> None:
    """All of a URL's query, and its values but for numbers and short words."""
    remember(query)
    remember(*(value for _, value in parse_qsl(query) if len(value) > 5 and not value.isdigit()))


def split_url(url: str) -> tuple[str, str, str]:
    """What stands before the host, the URL without any credentials, and what stands behind its path.

    A password may hold a `/` or `@` that ought to be percent-encoded: rather too much is cut than too little.
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
    found = _BEHIND_PATH.search(rest)
    behind = rest[found.end() :] if found else ""
    rest = rest[: found.start()] if found else rest
    host, slash, path = rest.partition("/")
    if ":" in host and "@" in path:  # host and port, or a name and a password of digits?
        userinfo, path = userinfo + path.rpartition("@")[0], f"{HIDDEN}@{path.rpartition('@')[2]}"
    return userinfo, f"{scheme}{slashes}{host}{slash}{path}", behind


def scrubbed(text: str) -> str:
    """`text` without credentials."""
    for secret in sorted(_secrets | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _ENCODED_URL.sub(HIDDEN, text)
    text = _URL.sub(lambda match: _hide(match[0]), text)
    return _QUERY.sub(f"?{HIDDEN}", _NO_SCHEME.sub(f"{HIDDEN}@", text))


def shortened(value: object, most: int = 60) -> str:
    """`value` as Python writes it, scrubbed before it is cut: half a password would not be known again."""
    text = scrubbed(repr(value)[:_LONGEST])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _hide(url: str) -> str:
    plain = url.rstrip(".,:;)]}")
    userinfo, shown, behind = split_url(plain)
    if userinfo:
        scheme, slashes, rest = re.split(r"(:/{1,3})", shown, maxsplit=1)
        shown = f"{scheme}{slashes}{HIDDEN}@{rest}"
    return f"{shown}?{HIDDEN}{url[len(plain) :]}" if behind else shown + url[len(plain) :]


def _has_password(authority: str) -> bool:
    """Whether NAME:REST is no host with its port."""
    _, colon, port = authority.partition(":")
    return bool(colon) and not (port.isdecimal() and int(port) < 1 << 16)


def _of_environment() -> set[str]:
    """Values of variables that libraries read credentials from."""
    return {
        value
        for name, value in os.environ.items()
        if is_secret_name(name)
        and len(value) >= 2 * _SHORTEST
        and not value.startswith(("/", ".", "~"))  # the path of a file that holds one
    }
