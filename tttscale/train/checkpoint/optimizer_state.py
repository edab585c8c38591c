"""AdamW's moments on disk: each rank writes the elements that it has, and reads those that it will have.

A tensor `NAME/exp_avg/START` (fp32 [n]) holds elements START to START + n of the flattened parameter
NAME. A reader does not care which rank wrote which elements, so the number of ranks and the ZeRO stage may
change between writing and reading.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.tensors import TensorFile, check_finite, damaged, open_tensors, shown
from tttscale.train.zero_fragments import MOMENTS, Fragment

_KEY = re.compile(rf"(.+)/({'|'.join(MOMENTS)})/(0|[1-9][0-9]{{0,15}})", re.DOTALL)
_NOT_NEGATIVE = "exp_avg_sq"
_EARLIER = "Resume from an earlier checkpoint (checkpoint.resume=N)"


def named_moments(fragments: Sequence[Fragment]) -> dict[str, Tensor]:
    """Return moments by the names that they have in a file; no copies."""
    return {
        f"{fragment.name}/{kind}/{fragment.start}": values
        for fragment in fragments
        for kind, values in fragment.moments.items()
    }


def described(name: str) -> str:
    """Return for people what `named_moments` calls `name`."""
    parameter, kind, _ = name.rsplit("/", 2)
    return f"{kind} of {parameter}"


class _Range(NamedTuple):
    """Elements [begin, end) of a parameter's moment, and where they are on disk."""

    begin: int
    end: int
    path: Path
    key: str


class MomentReader:
    """All moments of a checkpoint, read from disk when a fragment is filled."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the files' headers.

        Raises:
            CheckpointError: a file is not one of `named_moments`, or two hold the same elements.
        """
        self._ranges: dict[tuple[str, str], list[_Range]] = defaultdict(list)
        for path in paths:
            with open_tensors(path) as file:
                for key in file.shapes:
                    name, kind, elements = _parse(file, key)
                    self._ranges[name, kind].append(elements)
        for ranges in self._ranges.values():
            ranges.sort(key=lambda elements: elements.begin)
            for one, other in pairwise(ranges):
                if other.begin < one.end:
                    raise damaged(
                        other.path, f"{shown(other.key)} has elements of {shown(one.key)}"
                    )

    def fill(self, fragment: Fragment) -> None:
        """Read a fragment's moments into it.

        Raises:
            CheckpointError: an element is in no file, or has a value that AdamW cannot have.
        """
        for kind in MOMENTS:
            self._read(fragment.name, kind, fragment.start, fragment.moments[kind])

    def _read(self, name: str, kind: str, start: int, into: Tensor) -> None:
        ranges, done = self._ranges.get((name, kind), []), 0
        first = max(0, bisect_right([elements.begin for elements in ranges], start) - 1)
        for begin, end, path, key in ranges[first:]:
            at = start + done
            if done == len(into) or not begin <= at < end:
                break
            stop = min(end, start + len(into))
            with open_tensors(path) as file:
                values = file.read_range(key, at - begin, stop - begin)
            check_finite(path, key, values, _EARLIER)
            if kind == _NOT_NEGATIVE and values.min() < 0:
                raise CheckpointError(
                    f"{path}: {shown(key)} holds {float(values.min())}, a mean of squares below 0. "
                    f"{_EARLIER}"
                )
            into[done : stop - start].copy_(values)
            done = stop - start
        if done < len(into):
            raise CheckpointError(
                f"the checkpoint lacks {kind} of {name} from element {start + done:,} on; "
                "was it written by another model?"
            )


def _parse(file: TensorFile, key: str) -> tuple[str, str, _Range]:
    match, shape = _KEY.fullmatch(key), file.shapes[key]
    if match is None or len(shape) != 1 or file.dtypes[key] != "F32":
        raise damaged(
            file.path, f"{shown(key)}, {file.dtypes[key]:.20} {list(shape)}, is no moment of AdamW"
        )
    begin = int(match[3])
    return match[1], match[2], _Range(begin, begin + shape[0], file.path, key)
