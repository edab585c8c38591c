"""Which tttscale wrote a file, and what to say if that was a newer one than this.

Every file of ours carries the number of its format and, under `KEY`, the version that wrote it. A format
gets a new number when older versions would misread it; a key more is no new format, and so is refused
by an older version as unknown. Both are files from the future, and both get the same message.
"""

import re
from typing import Any

from tttscale import __version__

KEY = "tttscale_version"
_NUMBERS = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)[\w.+-]{0,40}")


def is_newer(version: Any) -> bool:
    """Whether `version`, as a file gives it, is above this one; what is no version is not."""
    there, here = _numbers(version), _numbers(__version__)
    return there is not None and here is not None and there > here


def newer_format(found: Any, known: int) -> bool:
    """Whether a file's format has a number above the one that this version reads."""
    return isinstance(found, int) and not isinstance(found, bool) and found > known


def newer(name: object, version: Any, format_version: Any = None) -> str:
    """The message for a file from the future.

    Args:
        name: of the file.
        version: the tttscale that wrote it, as the file says; None if it does not.
        format_version: of the file, if that is what this version does not know.
    """
    known = is_newer(version)
    wrote = str(version) if known else f"format version {format_version}"
    remedy = (
        f"tttscale {version} or newer" if known else "the tttscale that wrote it, or a newer one"
    )
    return f"{name} was written by a newer tttscale ({wrote}; this is {__version__}). Read it with {remedy}"


def _numbers(version: Any) -> tuple[int, ...] | None:
    match = _NUMBERS.fullmatch(version) if isinstance(version, str) else None
    return tuple(int(part or 0) for part in match.groups()) if match else None
