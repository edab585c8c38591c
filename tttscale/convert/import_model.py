"""`tttscale import`: a model of other code becomes a folder that this one and others load."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tttscale.convert.logits import TOLERANCE, check_logits
from tttscale.convert.model_card import render
from tttscale.convert.model_files import SHARD_BYTES, ModelFiles, Progress, written
from tttscale.convert.recognise import open_source
from tttscale.convert.settle import Given, settle
from tttscale.convert.shapes import check_complete, expected_shapes
from tttscale.convert.source import Source
from tttscale.data.tokenizers.special_tokens import NONE
from tttscale.data.tokenizers.tokenizer import TOKENIZER_NAME, Tokenizer, load_tokenizer
from tttscale.errors import CheckpointError
from tttscale.model.architecture import TTTConfig


@dataclass(frozen=True)
class Wishes:
    """What flags of an import say."""

    given: Given = field(default_factory=Given)
    tokenizer: str | None = None
    """`--tokenizer`; None: the one beside the source, if there is one."""
    dtype: torch.dtype | None = None
    """Dtype of the weights that are written; None: as they are."""
    shard_bytes: int = SHARD_BYTES
    logits: Path | None = None
    """`--check-logits`."""
    tolerance: float = TOLERANCE


def import_model(
    path: Path, out: Path, wishes: Wishes, notice: Callable[[str], None], progress: Progress
) -> ModelFiles:
    """Import a model.

    Args:
        path: a folder or file of weights of any known kind.
        out: the folder to write, which does not exist.
        wishes: what flags say.
        notice: told in lines what the source is, and what was assumed.
        progress: told the bytes that are written and those of all.

    Returns:
        What was written.

    Raises:
        CheckpointError: the source is damaged, not whole, or of no known kind; nothing is written.
        ConfigError: a flag is missing or wrong, or `out` cannot be written.
        DataError: the tokenizer cannot be read.
    """
    with open_source(path) as source:
        notice(f"{path}: {source.kind}")
        tokenizer = _tokenizer(path, wishes.tokenizer)
        config, notices = settle(source, wishes.given, tokenizer)
        for line in notices:
            notice(line)
        _arrange(source, config)
        notes = [
            f"Imported from `{path.absolute().name}`: {source.kind}.",
            *(f"{line}." for line in notices),
        ]
        card = render(out.absolute().name, config, source, tokenizer, {}, notes)
        files = ModelFiles(config, source, tokenizer, card, wishes.dtype, wishes.shard_bytes)
        with written(out, files, progress) as folder:
            if wishes.logits is not None:
                notice(check_logits(folder, wishes.logits, wishes.tolerance))
        return files


def _arrange(source: Source, config: TTTConfig) -> None:
    """Compare all tensors with those of the model, and put them into its order."""
    expected = expected_shapes(config)
    if expected is None:
        raise CheckpointError(
            f"{source.path} has layers of someone's own (pattern in {source.config_path}), which an import "
            "cannot check. `tttscale export` writes such a model"
        )
    check_complete(source, expected)
    source.tensors = {key: source.tensors[key] for key in expected}


def _tokenizer(path: Path, spec: str | None) -> Tokenizer | None:
    if spec == NONE:
        return None
    if spec is not None:
        return load_tokenizer(spec)
    folder = path if path.is_dir() else path.parent
    return load_tokenizer(str(folder)) if (folder / TOKENIZER_NAME).exists() else None
