"""What a source of weights is, by its content: whatever its name, or an error that says what was found."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tttscale.convert.fused import FUSED, fused_source
from tttscale.convert.jax_names import open_stream
from tttscale.convert.official import official_source
from tttscale.convert.source import Source
from tttscale.errors import CheckpointError
from tttscale.files import open_ordinary
from tttscale.model.weights import (
    INDEX,
    WEIGHTS,
    Weights,
    describe,
    has_weights,
    open_weights,
    open_weights_file,
)
from tttscale.reading import reason

_STREAM = re.compile(r"streaming_(train_state|params)(_\w{1,20})?")
_PART = re.compile(r"model.*-of-\d+\.safetensors")
_START_BYTES = 16
_KINDS: list[tuple[bytes, str]] = [
    (rb"version https://", "a pointer of git-lfs, not the file itself: run git lfs pull"),
    (
        rb"PK\x03\x04|\x80[\x02-\x05]",
        "a pickle, which can run any program, so that it is not loaded",
    ),
    (rb"GGUF", "a GGUF file, whose weights may be quantised"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"\x93NUMPY", "an array of numpy"),
    (rb"[{\[]", "JSON"),
]
_WANTED = (
    f"a folder with {WEIGHTS} or {INDEX} (of the official PyTorch code, ttt-lm-kernels or tttscale), one "
    "such file, or a streaming_train_state or streaming_params of ttt-lm-jax"
)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a source, and say what it is.

    Args:
        path: a folder or a file.

    Raises:
        CheckpointError: it is missing, damaged, or of no kind that is known.
    """
    path = _inside(path) if path.is_dir() else path
    if path.is_dir():
        with open_weights(path) as weights:
            yield _of_weights(weights, path)
        return
    begin = _begin(path)
    if _is_stream(begin):
        with open_stream(path) as source:
            yield source
    elif begin[8:9] == b"{":
        with open_weights_file(path) as weights:
            yield _of_weights(weights, path.parent)
    else:
        raise CheckpointError(f"{path} is {_named(begin)}. Give {_WANTED}")


def _of_weights(weights: Weights, folder: Path) -> Source:
    is_fused = any(key.endswith(FUSED) for key in weights)
    return (fused_source if is_fused else official_source)(weights, folder)


def _inside(folder: Path) -> Path:
    """Find what of a folder is meant: itself, or the one file in it that is a source."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(
            f"{folder}: {reason(error)}. Give a folder that can be read"
        ) from None
    whole = has_weights(folder)
    found = [name for name in names if _STREAM.fullmatch(name)]
    if not whole and not found:
        found = [name for name in names if name.endswith(".safetensors")]
        if len(found) != 1 or _PART.fullmatch(found[0]):
            raise CheckpointError(f"{folder}: {describe(folder)}. `import` takes {_WANTED}")
    if whole and not found:
        return folder
    if whole or len(found) > 1:
        both = [*([WEIGHTS] if whole else []), *found]
        raise CheckpointError(
            f"{folder} holds {', '.join(both[:8])}: more than one model. Name the file that is meant"
        )
    return folder / found[0]


def _begin(path: Path) -> bytes:
    try:
        with open_ordinary(path) as file:
            return file.read(_START_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}. Give {_WANTED}") from None


def _is_stream(begin: bytes) -> bool:
    """Whether it begins as a record does: an array of two, the first an array of texts."""
    return begin[:1] == b"\x92" and 0x91 <= begin[1] < 0xA0 if len(begin) > 2 else False


def _named(begin: bytes) -> str:
    for pattern, kind in _KINDS:
        if re.match(pattern, begin, re.DOTALL):
            return kind
    return f"of no kind that is known (it begins with {begin[:8]!r})" if begin else "empty"
