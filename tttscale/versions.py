"""Which tttscale wrote a file, and the message for a file that a newer one wrote.

Every file of ours holds the number of its format and, under `KEY`, the version that wrote it. A format gets
a new number when older versions would misread it. A further key is not a new format: an older version
refuses it as unknown. Both are files of a newer version, and both get the same message.
"""

import re
from typing import Any

from tttscale import __version__

KEY = "tttscale_version"
_NUMBERS = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)[\w.+-]{0,40}")


def is_newer(version: Any) -> bool:
    """Whether `version`, as a file holds it, is above this one; False for what is not a version."""
    there, here = _numbers(version), _numbers(__version__)
    return there is not None and here is not None and there > here


def newer_format(found: Any, known: int) -> bool:
    """Whether a file's format has a number above the one that this version reads."""
    return isinstance(found, int) and not isinstance(found, bool) and found > known


def newer(name: object, version: Any, format_version: Any = None) -> str:
    """Write the message for a file of a newer version.

    Args:
        name: the file's name.
        version: the tttscale that wrote it, as the file says; None if it does not say.
        format_version: the number of the file's format, if this version does not know it.
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
