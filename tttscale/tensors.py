"""Tensor files (safetensors), the only place that reads or writes them. No pickle.

A file is checked before the library maps it: that it is an ordinary file, and that its header has a
plausible size. Whatever the library then raises becomes one kind of error.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.files import open_ordinary, replaced
from tttscale.packages import needed
from tttscale.reading import parse_json, reason

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Dtypes of weights, and their bytes."""
_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
DTYPES = {name: dtype for dtype, name in _NAMES.items()}
"""Dtypes by the names that files give them."""
_HEADER_BYTES = 32 << 20
_LENGTH_BYTES = 8
_POINTER = b"version https://git-lfs"
_T = TypeVar("_T")


class TensorFile:
    """An open file; its values stay on disk until they are read."""

    def __init__(self, path: Path, handle: Any, header: dict[str, Any]) -> None:
        self.path, self._handle = path, handle
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        """What was written beside the tensors."""
        self.shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        """Shapes of all tensors, by name."""
        self.dtypes = {name: str(entry["dtype"]) for name, entry in header.items()}
        """Dtypes of all tensors, such as F32."""
        offsets = {name: entry["data_offsets"] for name, entry in header.items()}
        self.sizes = {name: int(end - begin) for name, (begin, end) in offsets.items()}
        """Bytes of all tensors."""

    def read(self, name: str) -> Tensor:
        """A whole tensor, mapped from disk.

        Raises:
            CheckpointError: it cannot be read.
        """
        return _guarded(self.path, lambda: self._handle.get_tensor(name))

    def read_range(self, name: str, begin: int, end: int) -> Tensor:
        """Rows [begin, end) of a tensor.

        Raises:
            CheckpointError: they cannot be read.
        """
        return _guarded(self.path, lambda: self._handle.get_slice(name)[begin:end])


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a tensor file.

    Raises:
        CheckpointError: it is missing, cannot be read, or is damaged.
    """
    safe_open = _safe_open()
    try:
        header = _header(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: {reason(error)}. Restore the file that was written"
        ) from None
    except ValueError as error:
        raise damaged(path, str(error)) from None
    # The library checks every offset, length and shape against each other and against the file.
    handle = _guarded(path, lambda: safe_open(path, framework="pt").__enter__())
    try:
        file = _guarded(path, lambda: TensorFile(path, handle, header))
        yield file
    finally:
        handle.__exit__(None, None, None)


class Spec(NamedTuple):
    """What a tensor is, before its values are there."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a tensor file in place of an earlier one; the bytes are those that the library would write.

    Args:
        path: of the file.
        tensors: by name.
        metadata: texts beside them.

    Raises:
        OSError: the file system refused; an earlier file is unchanged.
    """
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    stream_tensors(path, specs, tensors.__getitem__, metadata)


def stream_tensors(
    path: Path,
    specs: Mapping[str, Spec],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a tensor file as `write_tensors` does, with one tensor in memory at a time.

    Args:
        path: of the file.
        specs: of all tensors, by name.
        read: gives the tensor of a name; called once for each, in the order of the file.
        metadata: texts beside them.

    Raises:
        OSError: the file system refused; an earlier file is unchanged.
    """
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | dict(metadata or {})}
    end = 0
    for name in names:
        begin, end = end, end + specs[name].size_bytes
        header[name] = {
            "dtype": _NAMES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // _LENGTH_BYTES) * _LENGTH_BYTES)
    with replaced(path) as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for name in names:
            tensor = read(name)
            assert Spec(tensor.dtype, tuple(tensor.shape)) == specs[name], name
            values = tensor.detach().cpu().contiguous().flatten()
            file.write(values.view(torch.uint8).numpy().data)


def check_finite(path: Path, name: str, values: Tensor, advice: str) -> None:
    """Refuse values that are not finite.

    Raises:
        CheckpointError: some are NaN or infinite; the message says how many, and where the first is.
    """
    if values.numel() and not all(bound.isfinite() for bound in values.aminmax()):
        bad = (~values.isfinite()).flatten().nonzero().flatten()
        first = torch.unravel_index(bad[0], values.shape)
        raise CheckpointError(
            f"{path}: {shown(name)} holds {len(bad):,} values of {values.numel():,} that are not finite "
            f"(the first, at {[int(i) for i in first]}, is {float(values.flatten()[bad[0]])}). {advice}"
        )


def damaged(path: Path, problem: str) -> CheckpointError:
    """The error for a file whose content is not what was written."""
    return CheckpointError(f"{path} is damaged: {problem}. Restore the file that was written")


def shown(name: str) -> str:
    """Shorten or escape a tensor's name: a file may call it anything."""
    return name if name.isprintable() and len(name) <= 120 else f"{name!r:.120}"


def _safe_open() -> Any:
    """Return the library's function that opens a file.

    Raises:
        CheckpointError: the library cannot be used.
    """
    remedy = "Run `pip install safetensors`."
    with needed("safetensors", "reading weights", remedy, CheckpointError):
        from safetensors import safe_open

    return safe_open


def _header(path: Path) -> dict[str, Any]:
    """Read the header of a tensor file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a tensor file.
    """
    with open_ordinary(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        file.seek(0)
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError("it is a pointer of git-lfs, not the file itself: run git lfs pull")
        file.seek(_LENGTH_BYTES)
        if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
            raise ValueError(f"it has {size:,} bytes, too few for its header")
        if length > _HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes")
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _guarded(path: Path, work: Callable[[], _T]) -> _T:
    try:
        return work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is not an Exception
        words = " ".join(str(error).split()) or type(error).__name__
        raise damaged(path, words[:200]) from None
