"""The files of a model folder that hold its weights, in every form that the official class writes.

One file `model.safetensors`; or several, and `model.safetensors.index.json` that says which tensor is in
which; or either of them as a variant (`model.fp16.safetensors`), where there is nothing else. The names
of tensors are those of the causal model or, without `model.`, those of its core. fp64, fp16 and bf16
are welcome: reading them into fp32 parameters is up to the reader. Links are followed, since a cache of
downloads is made of them; the names in an index are names inside the folder.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.reading import read_json
from tttscale.tensors import DTYPES, FLOATS, TensorFile, check_finite, open_tensors, shown

WEIGHTS, CONFIG = "model.safetensors", "config.json"
INDEX = f"{WEIGHTS}.index.json"
PREFIX, EMBEDDING = "model.", "model.embed_tokens.weight"
_VARIANT = re.compile(r"model\.(\w{1,40})\.safetensors|model\.safetensors\.index\.(\w{1,40})\.json")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.safetensors")
_NARROW = {"F16": torch.float16, "BF16": torch.bfloat16}
_LISTED = 8
_ADVICE = "Take weights from before that; of a run, an earlier checkpoint (checkpoint.resume=N)"
_CONVERT = (
    "which are pickles, and tttscale loads none, since a pickle can run any program. Convert them once where "
    "you trust them, with the official code: "
    "TTTForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, safe_serialization=True)"
)
_OTHERS: list[tuple[str, str]] = [
    (r".*\.(bin|pt|pth|ckpt|pkl|pickle)", _CONVERT),
    (
        r"streaming_(train_state|params)(_\d+)?",
        "checkpoints of ttt-lm-jax; convert one: tttscale import FILE OUT --ttt-base-lr X",
    ),
    (
        r"model.*-of-\d+\.safetensors",
        f"parts of a model, but no {INDEX}, which says what is in which. Fetch that, too",
    ),
    (
        r".*\.safetensors",
        f"tensors under another name. If they are a TTT model's, call the file {WEIGHTS}",
    ),
    (r".*\.(h5|msgpack|gguf|onnx|npz)", "another library's; convert it to safetensors first"),
]
"""What else may lie in a folder, and what to do with it; the first that fits is said."""


class Weights:
    """All tensors of a folder, by the causal model's names; nothing is read before it is asked for."""

    def __init__(self, name: Path, files: list[TensorFile]) -> None:
        """Take the tensors of files that are open, no name twice."""
        self.name = name
        """What an error calls them."""
        self._files = {key: file for file in files for key in file.shapes}
        core = "embed_tokens.weight" in self._files and EMBEDDING not in self._files
        self._keys = {PREFIX + key if core else key: key for key in self._files}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(dict.fromkeys(file.path for file in self._files.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._files[self._keys[key]].shapes[self._keys[key]]

    @property
    def elements(self) -> int:
        """Numbers in all tensors."""
        sizes = (file.sizes[key] // FLOATS[file.dtypes[key]] for key, file in self._files.items())
        return sum(sizes)

    def dtype(self, key: str) -> torch.dtype:
        """The dtype that a tensor has in its file."""
        return DTYPES[self._files[self._keys[key]].dtypes[self._keys[key]]]

    @property
    def common_dtype(self) -> torch.dtype:
        """The narrow dtype that all tensors have; fp32 if they have none in common, or a wider one."""
        found = {file.dtypes[key] for file in self._files.values() for key in file.dtypes}
        return _NARROW.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32

    def read(self, key: str) -> Tensor:
        """A tensor in fp32, every value finite.

        Raises:
            CheckpointError: it is damaged, or a value of it is NaN or infinite in fp32.
        """
        file, own = self._files[self._keys[key]], self._keys[key]
        values = file.read(own).float()
        check_finite(file.path, own, values, _ADVICE)
        return values

    def stored(self, key: str, begin: int | None = None, end: int | None = None) -> Tensor:
        """A tensor as it is in its file, or its rows [begin, end); values are not looked at.

        Raises:
            CheckpointError: it is damaged.
        """
        file, own = self._files[self._keys[key]], self._keys[key]
        if begin is None or end is None:
            return file.read(own)
        return file.read_range(own, begin, end)

    def wrapper_prefix(self) -> str:
        """Return what a wrapper has put before all names, such as `_orig_mod.`; "" without a wrapper."""
        name = EMBEDDING.removeprefix(PREFIX)
        for key in self._files:
            if key.endswith(f".{name}"):
                prefix = key.removesuffix(name).removesuffix(PREFIX)
                return prefix if all(other.startswith(prefix) for other in self._files) else ""
        return ""

    def drop(self, key: str) -> None:
        """Forget a tensor that is no parameter."""
        del self._keys[key]


@contextmanager
def open_weights(directory: Path) -> Iterator[Weights]:
    """Open the files that hold a folder's weights, each once.

    Raises:
        CheckpointError: there are none, they do not fit their index, or a file is damaged.
    """
    found = _find(directory)
    with ExitStack() as stack:
        if isinstance(found, _Index):
            files = [stack.enter_context(_part(found, name)) for name in found.tensors]
            found.check(files)
        else:
            files = [stack.enter_context(open_tensors(found))]
        yield _weights(found.path if isinstance(found, _Index) else found, files)


@contextmanager
def open_weights_file(path: Path) -> Iterator[Weights]:
    """Open one file of weights, under any name.

    Raises:
        CheckpointError: it is damaged, or holds other things than weights.
    """
    with open_tensors(path) as file:
        yield _weights(path, [file])


def _weights(name: Path, files: list[TensorFile]) -> Weights:
    for file in files:
        for key, dtype in file.dtypes.items():
            if dtype not in FLOATS:
                raise CheckpointError(
                    f"{file.path}: {shown(key)} is {dtype:.20}; weights are {', '.join(FLOATS)}. Save "
                    "the model in one of these"
                )
    return Weights(name, files)


def check_folder(directory: Path) -> None:
    """Raise CheckpointError if there is no such folder."""
    if not directory.is_dir():
        what = "a file, and not a folder" if directory.exists() else "no such folder"
        raise CheckpointError(f"{directory}: {what}. Give the folder that holds {WEIGHTS}")


def describe(directory: Path) -> str:
    """What a folder without weights holds instead, and what to do."""
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    for inside in ("final", *sorted(n for n in names if re.fullmatch(r"step-\d+", n))[::-1]):
        if (directory / inside / WEIGHTS).is_file():
            return f"it holds models in folders of its own; name {directory / inside}"
    if any((directory / "checkpoints").glob(f"step-*/{WEIGHTS}")):
        return f"it is a run's folder; name a checkpoint in {directory / 'checkpoints'}"
    for pattern, what in _OTHERS:
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return f"it holds {_listed(found)}, {what}"
    holds = _listed(names) if names else "nothing"
    return f"it holds {holds}. Give a folder with {WEIGHTS}, or with {INDEX} and the files it names"


def has_weights(directory: Path) -> bool:
    """Whether a folder holds weights in one of the forms that are read, whole or not."""
    return any(
        path.name in (WEIGHTS, INDEX) or _VARIANT.fullmatch(path.name)
        for path in directory.iterdir()
    )


def _find(directory: Path) -> "Path | _Index":
    """The file of all weights, or the index of several; in the official order."""
    check_folder(directory)
    variants = sorted(p.name for p in directory.iterdir() if _VARIANT.fullmatch(p.name))
    plain = [name for name in (WEIGHTS, INDEX) if (directory / name).exists()]
    if len(variants) > 1 and not plain:
        raise CheckpointError(
            f"{directory} holds {_listed(variants)} and no {WEIGHTS}. Call the one that is meant {WEIGHTS}, "
            f"or {INDEX} if it is an index"
        )
    for name in (WEIGHTS, INDEX):
        if not plain and (directory / name).is_symlink():
            target = (directory / name).readlink()
            raise CheckpointError(
                f"{directory / name} is a link to {target}, which does not exist. Fetch the files again"
            )
    for name in (*plain, *variants):
        path = directory / name
        return _read_index(path) if name.endswith(".json") else path
    raise CheckpointError(f"{directory / WEIGHTS} does not exist: {describe(directory)}")


@dataclass(frozen=True)
class _Index:
    """What an index says.

    Attributes:
        path: Its own.
        tensors: Names of tensors by the name of their file.
        total_bytes: Of all tensors; None if it does not say.
    """

    path: Path
    tensors: dict[str, list[str]]
    total_bytes: int | float | None

    def check(self, files: list[TensorFile]) -> None:
        """Compare with the files that it names.

        Raises:
            CheckpointError: a tensor is in another file than it says, in none or in two, or sizes differ.
        """
        remedy = "They were not written together: put back both"
        for file, keys in zip(files, self.tensors.values(), strict=True):
            for key in keys:
                if key not in file.shapes:
                    where = [f.path.name for f in files if key in f.shapes]
                    found = f"it is in {where[0]}" if where else "no file has it"
                    raise CheckpointError(
                        f"{self.path} says that {shown(key)} is in {file.path.name}, but {found}. {remedy}"
                    )
        for file, keys in zip(files, self.tensors.values(), strict=True):
            for key in sorted(file.shapes.keys() - set(keys)):
                raise CheckpointError(
                    f"{file.path} holds {shown(key)}, which {self.path.name} does not list there. {remedy}"
                )
        sizes = {key: size for file in files for key, size in file.sizes.items()}
        total = sum(sizes.values())
        # A head that is tied, and not written, may have been counted.
        if self.total_bytes not in (None, total, total + sizes.get(EMBEDDING, 0)):
            raise CheckpointError(
                f"{self.path} says that all tensors have {self.total_bytes:,} bytes, but its files hold "
                f"{total:,}. {remedy}"
            )


def _read_index(path: Path) -> _Index:
    """Read an index.

    Raises:
        CheckpointError: it is none, or a name in it is no file's inside the folder.
    """
    advice = "Put back the index that was written with these files"
    content = read_json(path, error=CheckpointError, advice=advice)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path}: it has no weight_map of tensors and files. {advice}")
    tensors: dict[str, list[str]] = {}
    for key, name in places.items():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise CheckpointError(
                f"{path}: {shown(key)} is in {name!r:.80}, which is no name of a file beside it. {advice}"
            )
        tensors.setdefault(name, []).append(key)
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float | None):
        raise CheckpointError(f"{path}: its total_size is {total!r:.40}, no number. {advice}")
    return _Index(path, tensors, total)


@contextmanager
def _part(index: _Index, name: str) -> Iterator[TensorFile]:
    path = index.path.with_name(name)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist, but {index.path.name} names it. Fetch it, too"
        )
    with open_tensors(path) as file:
        yield file


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(shown, names[:_LISTED])) + more
