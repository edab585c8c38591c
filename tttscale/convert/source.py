"""What tensors are taken from, whatever the format: by their official names, read one by one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.model.architecture import TTTConfig
from tttscale.tensors import check_finite

_ADVICE = "Take weights from before that"
DTYPE_NAMES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Dtypes of weights by the names that flags and config.json have for them; the widest first."""


class Stored(NamedTuple):
    """A tensor of a source: what it is, and how to get it."""

    label: str
    """What its file calls it, for errors."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    """In the official layout."""
    read: Callable[[], Tensor]
    """Gives the tensor in the official layout; values are not looked at."""


@dataclass
class Source:
    """An opened source of weights."""

    path: Path
    """What errors call it."""
    kind: str
    """What it is, for people."""
    tensors: dict[str, Stored]
    """By the official names."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The fields of its config.json; none without one."""
    config_path: Path | None = None
    """That file; None without one."""
    check: Callable[[TTTConfig], None] = lambda config: None
    """Compares with a configuration what a source holds beside its parameters."""

    files: tuple[Path, ...] = ()
    """Files that hold the tensors."""

    def __post_init__(self) -> None:
        self._stamps = [_stamp(file) for file in self.files]

    def check_unchanged(self) -> None:
        """Check that no file was written to since the source was opened, such as by a download.

        Raises:
            CheckpointError: one was.
        """
        for file, before in zip(self.files, self._stamps, strict=True):
            now = _stamp(file)
            is_same_file = (
                before and now and before[0] == now[0]
            )  # one in its place does not matter
            if is_same_file and before != now:
                raise CheckpointError(
                    f"{file} was changed while it was read. Start again when nothing writes it any more"
                )

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(stored.shape) for stored in self.tensors.values())

    def read(self, key: str, dtype: torch.dtype) -> Tensor:
        """A tensor in a dtype, every value finite.

        Raises:
            CheckpointError: it is damaged, or a value is not finite, or too large for the dtype.
        """
        stored = self.tensors[key]
        values = stored.read()
        check_finite(self.path, stored.label, values, _ADVICE)
        if dtype == values.dtype:
            return values
        narrowed = values.to(dtype)
        if narrowed.numel() and not all(bound.isfinite() for bound in narrowed.aminmax()):
            name = dtype_name(dtype)
            raise CheckpointError(
                f"{self.path}: {stored.label} holds {float(values.abs().max()):.4g}, too large for {name}. "
                "Give --dtype bfloat16 or float32"
            )
        return narrowed


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def dtype_name(dtype: torch.dtype) -> str:
    """What flags and config.json call a dtype."""
    return str(dtype).removeprefix("torch.")


def widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """Return the dtype that holds the values of most of the others."""
    return next(dtype for dtype in DTYPE_NAMES.values() if dtype in dtypes)
