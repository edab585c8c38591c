"""A configuration as a flat list of keys, to compare two of them."""

import json
from collections.abc import Iterator
from typing import Any


def flat_keys(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key, such as data.blend[0].weight, with its value as JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat_keys(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for i, inner in enumerate(value):
            yield from flat_keys(inner, f"{key}[{i}]")
    else:
        yield key, json.dumps(value)
