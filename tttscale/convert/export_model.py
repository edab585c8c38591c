"""`tttscale export`: the model of a run as a folder that other programs load."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tttscale.convert.model_card import render
from tttscale.convert.model_files import SHARD_BYTES, ModelFiles, Progress, written
from tttscale.convert.official import official_source
from tttscale.convert.run_facts import checked_manifest, run_facts, run_of
from tttscale.convert.shapes import check_complete, expected_shapes, layers_of
from tttscale.convert.source import Source
from tttscale.data.tokenizers.special_tokens import NONE
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import CheckpointError, DataError
from tttscale.model.architecture import TTTConfig
from tttscale.model.pretrained import TIED, read_config
from tttscale.model.weights import EMBEDDING, open_weights
from tttscale.train.model_source import model_folder, model_tokenizer

_TRIES = 5
"""Checkpoints that a run which is training may remove while they are read."""


@dataclass(frozen=True)
class Wishes:
    """What flags of an export say."""

    tokenizer: str | None = None
    """`--tokenizer`; None: the model's own, or its training data's."""
    dtype: torch.dtype | None = None
    """Dtype of the weights that are written; None: as they are."""
    shard_bytes: int = SHARD_BYTES


def export_model(
    path: Path, out: Path, wishes: Wishes, notice: Callable[[str], None], progress: Progress
) -> ModelFiles:
    """Export a model.

    Args:
        path: a run's folder, one of its checkpoints, or a model's folder.
        out: the folder to write, which does not exist.
        wishes: what flags say.
        notice: told in lines what is exported, and what of it is not known.
        progress: told the bytes that are written and those of all.

    Returns:
        What was written.

    Raises:
        CheckpointError: there are no weights, or they are damaged; nothing is written.
        ConfigError: `out` cannot be written.
        DataError: the tokenizer cannot be had.
    """
    for _ in range(_TRIES):
        folder, notices = model_folder(path)
        try:
            return _export(folder, notices, out, wishes, notice, progress)
        except (CheckpointError, DataError):
            if folder == path or folder.is_dir():
                raise
    raise CheckpointError(
        f"{path}: its run removed {_TRIES} checkpoints while they were read. Export again, or set a larger "
        "checkpoint.keep"
    )


def _export(
    folder: Path,
    notices: list[str],
    out: Path,
    wishes: Wishes,
    notice: Callable[[str], None],
    progress: Progress,
) -> ModelFiles:
    run, manifest = run_of(folder), checked_manifest(folder)
    tokenizer = _tokenizer(folder, wishes.tokenizer)
    config = read_config(folder, may_build=False)
    facts = run_facts(run, folder, manifest, notices)
    for line in [*notices, f"model {folder}, tokenizer {tokenizer.name if tokenizer else NONE}"]:
        notice(line)
    with open_weights(folder) as weights:
        source = official_source(weights, folder)
        source.check(config)
        _drop_tied_head(source, config)
        if (layers := layers_of(source)) != config.num_hidden_layers:
            raise CheckpointError(
                f"{source.config_path} has num_hidden_layers = {config.num_hidden_layers:,}, but "
                f"{source.path} holds {layers:,} layers. Put back both as they were written"
            )
        expected = expected_shapes(config)
        if expected is not None:
            check_complete(source, expected)
            source.tensors = {key: source.tensors[key] for key in expected}
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{folder}: the model has {config.vocab_size:,} tokens, but the tokenizer {tokenizer.name} "
                f"has {tokenizer.vocab_size:,}. Name the model's own with --tokenizer"
            )
        card = render(_title(run, folder), config, source, tokenizer, facts)
        files = ModelFiles(config, source, tokenizer, card, wishes.dtype, wishes.shard_bytes)
        with written(out, files, progress):
            pass
        return files


def _tokenizer(folder: Path, spec: str | None) -> Tokenizer | None:
    if spec == NONE:
        return None
    try:
        return model_tokenizer(folder, spec)
    except DataError as error:
        raise DataError(f"{error} With --tokenizer none it is exported without one.") from None


def _title(run: Path | None, folder: Path) -> str:
    return (run or folder.absolute()).name


def _drop_tied_head(source: Source, config: TTTConfig) -> None:
    """Drop a head that is written although it is the embedding.

    Raises:
        CheckpointError: it is another matrix.
    """
    if not config.tie_word_embeddings or TIED not in source.tensors:
        return
    dtype = source.tensors[TIED].dtype
    if not torch.equal(source.read(TIED, dtype), source.read(EMBEDDING, dtype)):
        raise CheckpointError(
            f"{source.path} has a head of its own, but {source.config_path} has tie_word_embeddings = true. "
            "Write false there if the head was trained"
        )
    del source.tensors[TIED]
