"""Comparing a converted model with logits that its own code has computed."""

from pathlib import Path

import torch
from torch import Tensor

from tttscale.errors import CheckpointError
from tttscale.model.language_model import TTTForCausalLM
from tttscale.tensors import TensorFile, check_finite, open_tensors

TOLERANCE = 1e-4
_IDS, _LOGITS = ("input_ids", "ids"), "logits"


def check_logits(folder: Path, file: Path, tolerance: float) -> str:
    """Compute the logits of a model and compare them.

    Args:
        folder: of the model.
        file: of safetensors with integer `input_ids` [B, T] and `logits` [B, T, V].
        tolerance: largest difference, as a share of the largest logit.

    Returns:
        What was measured, in a line.

    Raises:
        CheckpointError: they differ by more, or the file does not fit the model.
    """
    with open_tensors(file) as tensors:
        ids, expected = _ids(tensors), _expected(tensors)
        if expected.shape[:2] != ids.shape:
            raise _unfit(file, f"ids are {list(ids.shape)} and logits {list(expected.shape)}")
        check_finite(file, _LOGITS, expected, "Compute them again")
    model = TTTForCausalLM.from_pretrained(folder)
    if int(ids.max()) >= model.config.vocab_size or int(ids.min()) < 0:
        raise _unfit(file, f"it has ids outside of the model's {model.config.vocab_size:,} tokens")
    with torch.no_grad():
        found = model(ids.long()).logits.float()
    if found.shape != expected.shape:
        raise _unfit(
            file, f"logits are {list(expected.shape)}, and the model's {list(found.shape)}"
        )
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    measured = (
        f"logits differ by at most {difference:.2g} from {file} (the largest is {largest:.3g})"
    )
    if not difference <= tolerance * largest:
        raise CheckpointError(
            f"{measured}: more than --tolerance {tolerance:g} of it, so this is another function. Check "
            "--ttt-base-lr, --rope-theta and --rms-norm-eps, or raise --tolerance if the weights were rounded"
        )
    return measured


def _ids(tensors: TensorFile) -> Tensor:
    name = next((name for name in _IDS if name in tensors.shapes), None)
    if name is None or len(tensors.shapes[name]) != 2 or 0 in tensors.shapes[name]:
        raise _unfit(tensors.path, f"it has no {_IDS[0]} of the shape [B, T]")
    if tensors.dtypes[name] not in ("I32", "I64"):
        raise _unfit(tensors.path, f"{name} is {tensors.dtypes[name]:.20}; expected I32 or I64")
    return tensors.read(name)


def _expected(tensors: TensorFile) -> Tensor:
    if len(tensors.shapes.get(_LOGITS, ())) != 3 or tensors.dtypes[_LOGITS][:1] not in ("F", "B"):
        raise _unfit(tensors.path, f"it has no {_LOGITS} of the shape [B, T, V]")
    return tensors.read(_LOGITS).float()


def _unfit(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"--check-logits {file}: {problem}. Give a safetensors file of {_IDS[0]} [B, T] and {_LOGITS} "
        "[B, T, V] that the model's own code has computed"
    )
