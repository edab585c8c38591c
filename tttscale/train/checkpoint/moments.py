"""AdamW's moments on disk: every rank writes the elements that it keeps, and reads those that it will keep.

A tensor `NAME/exp_avg/START` (fp32 [n]) holds elements START to START + n of the flattened parameter
NAME. Which rank wrote which does not matter to a reader, so that the number of ranks and the ZeRO stage
may change between writing and reading.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.model.pretrained import save_tensors
from tttscale.train.engine import MOMENTS, Fragment


def write_moments(path: Path, fragments: Sequence[Fragment]) -> None:
    """Write fragments to a file.

    Raises:
        OSError: the file system refused.
    """
    tensors = {
        f"{fragment.name}/{kind}/{fragment.start}": values.cpu()
        for fragment in fragments
        for kind, values in fragment.moments.items()
    }
    save_tensors(tensors, path)


class MomentReader:
    """All moments of a checkpoint, read where they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the files' headers.

        Raises:
            CheckpointError: a file is not what `write_moments` writes.
        """
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Path, str]]] = defaultdict(list)
        for path in paths:
            with _opened(path) as file:
                for key in file.keys():  # noqa: SIM118 - no iterator of its own
                    name, kind, start = key.rsplit("/", 2)
                    length = file.get_slice(key).get_shape()[0]
                    self._pieces[name, kind].append((int(start), int(start) + length, path, key))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    def fill(self, fragment: Fragment) -> None:
        """Read a fragment's moments into it.

        Raises:
            CheckpointError: an element of it is in no file.
        """
        for kind in MOMENTS:
            self._read(fragment.name, kind, fragment.start, fragment.moments[kind])

    def _read(self, name: str, kind: str, start: int, into: Tensor) -> None:
        pieces, done = self._pieces.get((name, kind), []), 0
        first = max(0, bisect_right([piece[0] for piece in pieces], start) - 1)
        for begin, end, path, key in pieces[first:]:
            at = start + done
            if done == len(into) or not begin <= at < end:
                break
            stop = min(end, start + len(into))
            with _opened(path) as file:
                into[done : stop - start].copy_(file.get_slice(key)[at - begin : stop - begin])
            done = stop - start
        if done < len(into):
            raise CheckpointError(
                f"the checkpoint lacks {kind} of {name} from element {start + done:,} on; "
                "was it written by another model?"
            )


@contextmanager
def _opened(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
