"""Pydantic's errors as messages about keys of a configuration file."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

from pydantic import ValidationError

from tttscale.config.schema import known_keys
from tttscale.config.source import KeyPath
from tttscale.scrub import shortened

_SIMILAR = 0.65


def explain(error: ValidationError, places: dict[KeyPath, str]) -> list[str]:
    """Write one line per problem: the file and line, the key, what was found, what is expected."""
    lines = (_line(dict(detail), places) for detail in error.errors(include_url=False))
    return list(dict.fromkeys(lines))


def nearest_key(key: KeyPath, valid: Iterable[KeyPath]) -> KeyPath | None:
    """The valid key that is most like `key`, in its last word or as a whole."""
    score, best = max((_likeness(key, candidate), candidate) for candidate in valid)
    return best if score >= _SIMILAR else None


def _likeness(key: KeyPath, candidate: KeyPath) -> float:
    last = SequenceMatcher(None, key[-1].lower(), candidate[-1].lower()).ratio()
    whole = SequenceMatcher(None, ".".join(key).lower(), ".".join(candidate).lower()).ratio()
    same_section = key[:-1] == candidate[:-1]
    return 0.6 * last + 0.3 * whole + 0.1 * same_section


def _line(detail: dict[str, Any], places: dict[KeyPath, str]) -> str:
    location = tuple(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return _placed(location, places) + _unknown(location)
    key = _known_part(location)
    name = _written(key)
    if detail["type"] == "missing":
        whole = name.split("[")[0]  # an override replaces a list as a whole
        return f"{name} is missing; set it in the file or on the command line: {whole}=..."
    return _placed(key, places) + f"{name} = {shortened(detail['input'])}: {_expectation(detail)}"


def _known_part(location: KeyPath) -> KeyPath:
    # Pydantic adds names of union members after the key.
    keys = known_keys()
    fitting = (n for n in range(len(location), 0, -1) if _names(location[:n]) in keys)
    return location[: next(fitting, 0)]


def _names(location: KeyPath) -> KeyPath:
    """Remove the indices of lists."""
    return tuple(part for part in location if not part.isdigit())


def _written(location: KeyPath) -> str:
    """Write a key as in data.blend[0].weight."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in location)[1:]


def _unknown(location: KeyPath) -> str:
    keys = known_keys()
    section, last = location[:-1], location[-1]
    name, inside = ".".join(filter(None, (_written(section), last))), _names(section)
    nearest = nearest_key((*inside, last), keys)
    if nearest is not None:
        return f"{name} is not a known key; did you mean {'.'.join(nearest)}?"
    siblings = ", ".join(sorted(k[-1] for k in keys if k[:-1] == inside))
    return f"{name} is not a known key; {_written(section) or 'a configuration'} has {siblings}"


def _expectation(detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "expected a section: keys below it"
    if detail["type"] in ("tuple_type", "list_type"):
        return "expected a list"
    if detail["type"] == "too_short":
        return f"expected a list of at least {detail['ctx']['min_length']}"
    if detail["type"] == "string_pattern_mismatch":
        return f"expected text that matches {detail['ctx']['pattern']}"
    if detail["type"] == "string_type":
        return "expected text; put it in quotes if it looks like a number"
    return message.replace("Input should be", "expected")


def _placed(key: KeyPath, places: dict[KeyPath, str]) -> str:
    place = next((places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in places), None)
    return f"{place}: " if place else ""
