"""Weights in and out: config.json and safetensors with the official keys. No pickle."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.files import replaced
from tttscale.model.architecture import TTTConfig

Model = TypeVar("Model")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_UNSEEN = ("rope_theta", "rms_norm_eps")
"""Fields that decide what weights mean and that neither their names nor their shapes show."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
TIED, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def save_pretrained(model: Any, directory: str | Path) -> None:
    """Write both files; each appears under its name only once it is whole.

    Raises:
        OSError: the file system refused; nothing half-written is left.
    """
    directory = Path(directory)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop(TIED)
    fields = {"architectures": ["TTTForCausalLM"], "model_type": "ttt", "torch_dtype": "float32"}
    text = json.dumps(fields | model.config.model_dump(), indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        save_tensors(weights, directory / WEIGHTS)
        with _whole(directory / CONFIG) as partial:
            partial.write_text(text, encoding="utf-8")
    except BaseException:
        with suppress(OSError):  # there was something in it before
            directory.rmdir()
        raise


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write what takes its place at `path` in the end; removed if that fails."""
    partial = path.with_name(f"{path.name}.tmp-save")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a tensor file, whole or not at all: the same bytes as the library's, through a file of ours.

    Raises:
        OSError: the file system refused.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with replaced(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            values = tensors[name].detach().cpu().contiguous().flatten()
            file.write(values.view(torch.uint8).numpy().data)


def from_pretrained(model_type: Any, directory: str | Path) -> Any:
    """Build a model of `model_type` from a directory; see `TTTForCausalLM.from_pretrained`."""
    directory = Path(directory)
    model = model_type(read_config(directory))
    load_weights(model, directory)
    return model


def read_config(directory: Path) -> TTTConfig:
    """The model's shape from config.json; fields of other libraries are passed over.

    Raises:
        CheckpointError: no such file, not JSON, or values out of range.
    """
    path = directory / CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return TTTConfig(**{k: v for k, v in fields.items() if k in TTTConfig.model_fields})
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; a model folder holds {CONFIG} and {WEIGHTS}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, ValidationError) as error:
        raise CheckpointError(f"{path} is not a TTT model's {CONFIG}: {error}") from None


def load_weights(model: Any, directory: str | Path) -> None:
    """Load model.safetensors into a model, strictly.

    Raises:
        CheckpointError: missing, damaged, other keys or shapes than the model's, or from a model that would
            compute something else with them.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such folder. Give one that holds {WEIGHTS}")
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; convert the weights to safetensors first")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if model.config.tie_word_embeddings and EMBEDDING in weights:
        head = weights.setdefault(TIED, weights[EMBEDDING])
        if not torch.equal(head, weights[EMBEDDING]):
            raise CheckpointError(
                f"{path} has a head of its own, but the model's head is its embedding; "
                "set model.tie_word_embeddings=false"
            )
    _check_keys(path, weights, model.state_dict())
    if (directory / CONFIG).is_file():
        _check_fields(directory, model.config)
    model.load_state_dict(weights)


def _check_fields(directory: Path, wanted: TTTConfig) -> None:
    found = read_config(directory)
    for name in _UNSEEN:
        theirs, ours = getattr(found, name), getattr(wanted, name)
        if theirs != ours:
            raise CheckpointError(
                f"{directory / CONFIG} has {name} = {theirs}, and the model {ours}; set model.{name}={theirs}"
            )


def _check_keys(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    problems = [f"missing {k}" for k in wanted.keys() - found.keys()]
    problems += [f"unknown {k}" for k in found.keys() - wanted.keys()]
    problems += [
        f"{k} is {tuple(found[k].shape)}, the model wants {tuple(wanted[k].shape)}"
        for k in wanted.keys() & found.keys()
        if found[k].shape != wanted[k].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"{path} does not fit the model ({len(problems)} problems): {shown}")
