"""Readers of the same tokens: ours, plain Zarr, a memory map, and the formats of other trainers."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tttscale.data import Split, Store, Windows
from tttscale.data.store.storage import open_array

Read = Callable[[int, int], np.ndarray]
MEMMAP = "numpy memmap, copied"
OURS = ("tttscale Split.read", "tttscale Windows.chunk")
_PIECE_TOKENS = 1 << 22
_SEED, _MINI_BATCH_TOKENS = 0, 16


@dataclass(frozen=True)
class TokenReader:
    """One way to get at tokens.

    Attributes:
        name: As the report calls it.
        read: Tokens [begin, end) as an array of its own, never a view of a file.
        bytes_per_token: What they take on disk.
        forget: Called before every timing, untimed: what an earlier one has read must not help.
    """

    name: str
    read: Read
    bytes_per_token: float
    forget: Callable[[], None] = lambda: None


def own_readers(store: Store, split: Split, sequence_tokens: int) -> list[TokenReader]:
    """Our two paths and zarr-python alone, all on the files of the store."""
    other = store.split(split.name)
    windows = Windows(other, sequence_tokens, _SEED, _MINI_BATCH_TOKENS)

    def by_windows(begin: int, end: int) -> np.ndarray:
        """Tokens begin..end from the windows that hold them."""
        parts, at = [], begin
        while at < end:
            number, inside = divmod(at, sequence_tokens)
            stop = min(inside + end - at, sequence_tokens)
            parts.append(windows.window(number).chunk(inside, stop).ids)
            at += stop - inside
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    array = open_array(store.path, split.array_path)
    sizes = store.storage.sizes() or {}
    prefix = f"{split.array_path}/"
    size = sum(n for key, n in sizes.items() if key.startswith(prefix)) / split.num_tokens
    return [
        TokenReader(OURS[0], split.read, size, split.drop_cache),
        TokenReader(OURS[1], by_windows, size, other.drop_cache),
        TokenReader("zarr-python", lambda a, b: np.asarray(array[a:b]), size),
    ]


def memmap_reader(split: Split, tokens: int, folder: Path) -> tuple[TokenReader, np.ndarray]:
    """Writes the first `tokens` as they are in memory; also gives them, mapped."""
    path, dtype = folder / "tokens.bin", split.read(0, 0).dtype
    with path.open("wb") as file:
        for begin in range(0, tokens, _PIECE_TOKENS):
            split.read(begin, min(begin + _PIECE_TOKENS, tokens)).tofile(file)
    raw = np.memmap(path, dtype, "r", shape=(tokens,))
    return TokenReader(MEMMAP, lambda a, b: np.array(raw[a:b]), dtype.itemsize), raw


def mds_reader(tokens: np.ndarray, chunk_tokens: int, folder: Path) -> TokenReader:
    """MosaicML streaming: uncompressed MDS shards whose samples are chunks, read by LocalDataset."""
    streaming = _import("streaming")
    out = folder / "mds"
    columns = {"tokens": f"ndarray:{tokens.dtype.name}"}
    with streaming.MDSWriter(out=str(out), columns=columns) as writer:
        for begin in range(0, len(tokens), chunk_tokens):
            writer.write({"tokens": np.array(tokens[begin : begin + chunk_tokens])})
    dataset = streaming.LocalDataset(str(out))

    def read(begin: int, end: int) -> np.ndarray:
        first, last = begin // chunk_tokens, -(-end // chunk_tokens)
        samples = [dataset.get_item(i)["tokens"] for i in range(first, last)]
        joined = samples[0] if len(samples) == 1 else np.concatenate(samples)
        return joined[begin - first * chunk_tokens : end - first * chunk_tokens]

    name = f"MosaicML streaming {version('mosaicml-streaming')}, LocalDataset"
    return TokenReader(name, read, _size(out) / len(tokens))


def megatron_reader(tokens: np.ndarray, chunk_tokens: int, folder: Path) -> TokenReader:
    """Megatron's indexed dataset with everything as one document; its view is copied."""
    indexed = _import("megatron.core.datasets.indexed_dataset")
    dtype = np.uint16 if tokens.dtype == np.uint16 else np.int32  # of the few that it knows
    out = folder / "megatron"
    out.mkdir()
    prefix = str(out / "tokens")
    builder = indexed.IndexedDatasetBuilder(indexed.get_bin_path(prefix), dtype)
    builder.add_document(tokens, [len(tokens)])
    builder.finalize(indexed.get_idx_path(prefix))
    dataset = indexed.IndexedDataset(prefix)
    name = f"Megatron Core {version('megatron-core')}, IndexedDataset, copied"
    return TokenReader(
        name, lambda a, b: np.array(dataset.get(0, a, b - a)), _size(out) / len(tokens)
    )


PEERS = {
    "MosaicML streaming": ("streaming", mds_reader),
    "Megatron Core": ("megatron.core", megatron_reader),
}


def peer_readers(
    tokens: np.ndarray, chunk_tokens: int, folder: Path
) -> tuple[list[TokenReader], dict[str, str]]:
    """The other trainers' readers, and by name why one is not there.

    Args:
        tokens: What they convert to their formats, [n].
        chunk_tokens: Tokens per sample where a format has samples.
        folder: Where their files go.
    """
    found, missing = [], {}
    for name, (module, make) in PEERS.items():
        if not _installed(module):
            missing[name] = "not installed"
            continue
        try:
            found.append(make(tokens, chunk_tokens, folder))
        except Exception as error:  # half an installation fails in every possible way
            reason = (str(error).strip().splitlines() or [""])[0]
            missing[name] = f"fails: {type(error).__name__}: {reason}"
    return found, missing


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # no parent package either
        return False


def _import(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about their optional parts
        return importlib.import_module(module)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
