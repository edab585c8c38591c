"""Which files hold ids, and how, by their names; files that only describe others are found with these."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tttscale.data.ids.columns import Column, damaged, file_bytes
from tttscale.data.ids.id_file import IdFile
from tttscale.data.ids.megatron import open_megatron
from tttscale.data.ids.nanoset import INDEX, MASK, METADATA, open_nanoset
from tttscale.data.ids.npy import open_npy
from tttscale.errors import DataError

DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")
"""What `--dtype` may name."""
_KNOWN = ".npy, .bin with .idx, and .ds"
_DESCRIBE_DS = (INDEX, METADATA, MASK)


def with_endings(sources: Sequence[str]) -> list[str]:
    """Complete sources that are the common beginning of a `.bin` and an `.idx`, as Megatron names them."""
    return [
        f"{source}.idx" if not Path(source).exists() and Path(f"{source}.idx").is_file() else source
        for source in sources
    ]


def open_id_files(files: Iterable[Path], vocab_size: int, dtype: str | None) -> list[IdFile]:
    """Check the headers and indexes of all files.

    Args:
        files: in reading order, those that describe others among them or not.
        vocab_size: ids are below this.
        dtype: dtype of the ids of files that do not say it.

    Raises:
        DataError: a file is damaged, or it is not known how to read it.
    """
    files = list(files)
    if dtype is not None and dtype not in DTYPES:
        raise DataError(f"--dtype {dtype}: give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.")
    _refuse_unknown([file for file in files if not _is_known(file)])
    named = set(files)
    found = []
    for file in files:
        ending = file.suffix.lower()
        if ending == ".npy":
            found.append(open_npy(file))
        elif ending == ".idx":
            found.append(open_megatron(file))
        elif ending == ".ds":
            found.append(open_nanoset(file, vocab_size, dtype))
        elif ending == ".bin":
            index = file.with_suffix(".idx")
            if index.is_file() and index not in named:
                found.append(open_megatron(index))
            elif not index.is_file():
                found.append(_open_raw(file, dtype))
    for one in found:
        _check_dtype(one, vocab_size, dtype)
    return found


def _is_known(file: Path) -> bool:
    if file.suffix.lower() in (".npy", ".idx", ".bin", ".ds"):
        return True
    name = file.name.lower()
    ending = next((e for e in _DESCRIBE_DS if name.endswith(f".ds{e}")), None)
    return ending is not None and file.with_name(file.name[: -len(ending)]).is_file()


def _refuse_unknown(files: Sequence[Path]) -> None:
    if files:
        more = f" and {len(files) - 5} more" if files[5:] else ""
        raise DataError(
            f"SOURCES: not files of ids that are known ({_KNOWN}): "
            f"{', '.join(map(str, files[:5]))}{more}. Name the files themselves, take only some with "
            "--suffix, or leave these out with --exclude."
        )


def _open_raw(path: Path, dtype: str | None) -> IdFile:
    """Bare numbers without a header."""
    if dtype is None:
        raise DataError(
            f"source {path}: no {path.with_suffix('.idx').name} is beside it. If it holds ids alone, give "
            "their --dtype, such as uint16."
        )
    kind = np.dtype(dtype).newbyteorder("<")
    size = file_bytes(path)
    if size % kind.itemsize:
        raise damaged(path, f"{size:,} bytes, which are no whole number of {dtype}")
    return IdFile("bare numbers", Column(path, 0, kind.str, size // kind.itemsize))


def _check_dtype(file: IdFile, vocab_size: int, dtype: str | None) -> None:
    if dtype is not None and dtype != file.dtype_name:
        raise DataError(
            f"--dtype {dtype}: {file.path} says that its ids are {file.dtype_name}. Leave the flag out."
        )
    if file.ids.item_bytes <= 2 and vocab_size > 1 << 16:
        raise DataError(
            f"source {file.path}: {file.dtype_name} has no room for the ids of a vocabulary of "
            f"{vocab_size:,}. Name the tokenizer that made them with --tokenizer."
        )
