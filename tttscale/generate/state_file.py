"""Files of states: what a model keeps of the tokens that it has read, to continue later or elsewhere.

A safetensors file with `positions`, `layers.<i>.<part>.<j>` and, where they are known, the `logits` of what
follows; and in its metadata whose state it is: digests of the model's configuration and parameters, and of
the tokenizer; and a digest of its own tensors.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tttscale import __version__
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import CheckpointError, NumericsError
from tttscale.model.decode_state import OPEN, SUMS, DecodeState, Parts
from tttscale.model.language_model import Block, TTTForCausalLM
from tttscale.model.pretrained import weights_of
from tttscale.tensors import TensorFile, check_finite, damaged, open_tensors, write_tensors

VERSION = "1"
_VERSION_KEY, _WRITER_KEY, _CONTENT_KEY = "tttscale_state", "tttscale_version", "content"
_POSITIONS, _LOGITS = "positions", "logits"
_NAME = re.compile(r"layers\.([0-9]{1,5})\.(.{1,80})\.([0-9]{1,3})")
_NONE = "none"
_MOST_TOKENS = 1 << 62
_ALIKE = {"model": ", in the same --dtype"}
_ADVICE = "Read the text again, and save the state again"


def fingerprints(model: TTTForCausalLM, tokenizer: Tokenizer | None = None) -> dict[str, str]:
    """Say whose a state is.

    Args:
        model: all of whose parameters are read.
        tokenizer: that makes its ids; None: it is not known.

    Returns:
        Digests by what they are of, "model" and "tokenizer".
    """
    shape = json.dumps(model.config.model_dump(mode="json"), sort_keys=True)
    found = _digest(weights_of(model), shape)
    return {"model": found, "tokenizer": tokenizer.digest if tokenizer else _NONE}


def _digest(tensors: Mapping[str, Tensor], before: str = "") -> str:
    """Return a digest of a text, and of names, dtypes, shapes and values."""
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_state(path: Path | str, state: DecodeState, of: Mapping[str, str]) -> None:
    """Write a state; the file appears as a whole or not at all.

    Args:
        path: of the file, such as book.state.
        state: after one token or more.
        of: `fingerprints` of the model and the tokenizer.

    Raises:
        NumericsError: the state holds NaN or infinity.
        OSError: the file system refused; an earlier file is as it was.
    """
    tensors = {_POSITIONS: torch.tensor(state.positions, dtype=torch.int64)}
    for number, layer in enumerate(state.layers):
        for name, part in layer.items():
            tensors |= {f"layers.{number}.{name}.{i}": tensor for i, tensor in enumerate(part)}
    if state.logits is not None:
        tensors[_LOGITS] = state.logits
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise NumericsError(
                f"the state cannot be saved: {name} holds a number that is not finite. Read the text with "
                "wider parameters (--dtype float32, dtype=torch.float32), or look for it in the weights"
            )
    digest = _digest(tensors)
    metadata = {_VERSION_KEY: VERSION, _WRITER_KEY: __version__, _CONTENT_KEY: digest, **of}
    write_tensors(Path(path), tensors, metadata)


def load_state(path: Path | str, model: TTTForCausalLM, of: Mapping[str, str]) -> DecodeState:
    """Read a state of this model.

    Args:
        path: of a file that `save_state` wrote.
        model: that shall continue from it.
        of: `fingerprints` of the model and the tokenizer.

    Returns:
        A state of its own, on the model's device.

    Raises:
        CheckpointError: it is missing, damaged, of another model or tokenizer, or of a newer version.
    """
    path = Path(path)
    with open_tensors(path) as file:
        _check_owner(file, of)
        positions = _positions(file)
        layers: list[Parts] = [{} for _ in model.carry_layers]
        device = model.model.embed_tokens.weight.device
        for number, name, tensors in _parts(file, len(layers)):
            layers[number][name] = tuple(t.to(device, copy=True) for t in tensors)
        logits = _logits(file, len(positions), model.config.vocab_size)
        content = _digest({name: file.read(name) for name in file.shapes})
        is_whole = content == file.metadata.get(_CONTENT_KEY)
    for number, (block, parts) in enumerate(zip(model.carry_layers, layers, strict=True)):
        _check_shapes(path, number, block, parts, positions)
    if not is_whole:
        raise damaged(path, "its values are not those that were written")
    return DecodeState(positions, layers, None if logits is None else logits.to(device, copy=True))


def _check_owner(file: TensorFile, of: Mapping[str, str]) -> None:
    found = file.metadata
    if not isinstance(found, dict) or _VERSION_KEY not in found:
        raise CheckpointError(
            f"{file.path} is no state of a model. Give a file that `tttscale generate --save-state` wrote"
        )
    if found[_VERSION_KEY] != VERSION:
        raise CheckpointError(
            f"{file.path} is a state of format {found[_VERSION_KEY]!r:.20}, written by tttscale "
            f"{found.get(_WRITER_KEY, 'unknown')!s:.20}; this one reads format {VERSION}. Use that tttscale"
        )
    for what, ours in of.items():
        theirs = found.get(what)
        if theirs != ours:
            raise CheckpointError(
                f"{file.path} is the state of another {what}: that of fingerprint {theirs!s:.64}, and this "
                f"one's is {ours}. Load the {what} that it was saved with{_ALIKE.get(what, '')}, or read the "
                "text again"
            )


def _positions(file: TensorFile) -> list[int]:
    if file.dtypes.get(_POSITIONS) != "I64" or len(file.shapes[_POSITIONS]) != 1:
        raise damaged(file.path, "it has no positions")
    found = file.read(_POSITIONS).tolist()
    if not found or any(not 0 < position < _MOST_TOKENS for position in found):
        raise damaged(file.path, f"it has the positions {found!r:.60}")
    return found


def _logits(file: TensorFile, rows: int, vocabulary: int) -> Tensor | None:
    found = file.shapes.get(_LOGITS)
    if found is None:
        return None
    if found != (rows, vocabulary) or file.dtypes[_LOGITS] not in ("F32", "F64"):
        raise damaged(file.path, f"its logits have the shape {found!r:.60}")
    logits = file.read(_LOGITS)
    check_finite(file.path, _LOGITS, logits, _ADVICE)
    return logits


def _parts(file: TensorFile, layers: int) -> Iterator[tuple[int, str, list[Tensor]]]:
    """The parts of all layers, their tensors in order and finite."""
    numbers: dict[tuple[int, str], list[int]] = {}
    for name in file.shapes.keys() - {_POSITIONS, _LOGITS}:
        found = _NAME.fullmatch(name)
        if found is None or int(found[1]) >= layers:
            raise damaged(file.path, f"it has a tensor {name!r:.60}")
        numbers.setdefault((int(found[1]), found[2]), []).append(int(found[3]))
    for (layer, part), indices in sorted(numbers.items()):
        if sorted(indices) != list(range(len(indices))):
            raise damaged(file.path, f"layer {layer}: {part!r:.60} lacks a tensor")
        names = [f"layers.{layer}.{part}.{i}" for i in range(len(indices))]
        tensors = [file.read(name) for name in names]
        for name, tensor in zip(names, tensors, strict=True):
            check_finite(file.path, name, tensor, _ADVICE)
        yield layer, part, tensors


def _check_shapes(
    path: Path, number: int, block: Block, parts: Parts, positions: list[int]
) -> None:
    """Compare with what the layer declares, and what steps keep beside it."""
    mixer = block.seq_modeling_block
    unit = type(mixer).alignment(mixer.config, mixer.options)
    wanted = block.carry(len(positions), positions[0] // unit * unit)
    shapes = {name: tuple(tuple(t.shape) for t in part) for name, part in parts.items()}
    missing = [name for name in wanted if name not in shapes and min(positions) >= unit]
    if missing:
        raise damaged(path, f"layer {number} lacks {missing[0]!r:.60}")
    for name, found in shapes.items():
        expected = wanted[name].shapes if name in wanted else ()
        if name == SUMS and "state" in wanted:
            expected = wanted["state"].shapes
        elif name == OPEN:
            expected = ((len(positions), positions[0] % unit, mixer.config.hidden_size),)
        if found != tuple(map(tuple, expected)):
            raise damaged(path, f"layer {number}: {name!r:.60} has the shapes {found!r:.120}")
