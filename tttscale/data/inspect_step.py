"""What a training step reads, found out without training."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from tttscale.config import Config, load_config
from tttscale.data.inspect_report import ShownDocument, ShownSequence, ShownStep
from tttscale.data.provenance import check_data_record
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.data.windows.mixture import Component, Tokens, open_tokens
from tttscale.data.windows.order import data_step, sequence_groups
from tttscale.data.windows.padded_stream import PaddedLayout
from tttscale.errors import DataError


def open_run(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, Tokens]:
    """The configuration and the stores of a run's folder, or of a configuration file.

    Raises:
        ConfigError: the configuration is wrong.
        DataError: no run's folder, or its stores are missing or not those it trained on.
    """
    if not path.is_dir():
        config = load_config(path, overrides)
        return config, open_tokens(config)
    if not (path / "config.yaml").is_file():
        raise DataError(
            f"{path} is not a run's folder: it has no config.yaml. Give run.dir/run.name, or a "
            "configuration file."
        )
    config = load_config(path / "config.yaml", overrides)
    tokens = open_tokens(config)
    check_data_record(path, tokens)
    return config, tokens


def show_step(
    config: Config, tokens: Tokens, step: int, *, excerpt_tokens: int, most_documents: int
) -> ShownStep:
    """What training step `step` reads.

    Args:
        config: The run's configuration.
        tokens: Its open stores.
        step: 1, 2, ...; it may lie behind the run's last one.
        excerpt_tokens: Tokens of each document to decode; with 0 no token is read.
        most_documents: Documents of each sequence to show.

    Raises:
        DataError: A store is damaged there.
    """
    number, total = data_step(step, config.data.skipped), config.train.sequences_per_step
    (indices,) = sequence_groups(number, total, 1, 0, total)
    lookers = {c.key: _Looker(c, excerpt_tokens, most_documents) for c in tokens.components}
    placed = ((index, *tokens.place(index)) for index in indices)
    sequences = (lookers[component.key].sequence(i, local) for i, component, local in placed)
    length, mode = config.data.sequence_length, config.data.documents
    return ShownStep(step, number, length, mode, tuple(sequences))


class _Looker:
    """Looks into the windows of one store."""

    def __init__(self, component: Component, excerpt_tokens: int, most_documents: int) -> None:
        self._component, self._windows = component, component.train
        self._split = component.splits["train"]
        self._excerpt_tokens, self._most_documents = excerpt_tokens, most_documents

    def sequence(self, index: int, local: int) -> ShownSequence:
        """The run's `index`-th sequence, which is the `local`-th of this store."""
        window, length = self._windows.sequence(local).window, self._windows.sequence_tokens
        pieces = self._layout.pieces(window * length, (window + 1) * length)
        begin, end = int(pieces.begins[0]), int(pieces.ends[-1])
        held = np.flatnonzero(pieces.ends > pieces.begins)
        columns = (column[held[: self._most_documents]].tolist() for column in pieces)
        shown = tuple(self._document(*row) for row in zip(*columns, strict=True))
        return ShownSequence(
            index=index,
            store=self._component.path,
            split=self._split.name,
            epoch=local // self._windows.count,
            window=window,
            windows=self._windows.count,
            begin=begin,
            end=end,
            padding=1 - (end - begin) / length,
            documents=shown,
            documents_left_out=len(held) - len(shown),
        )

    def _document(self, document: int, begin: int, end: int, place: int) -> ShownDocument:
        first, behind = self._layout.raw[document : document + 2].tolist()
        return ShownDocument(
            document=document,
            position=place,
            tokens=end - begin,
            document_tokens=behind - first,
            goes_on=begin > first,
            continues=end < behind,
            text=self._excerpt(begin, min(end, begin + self._excerpt_tokens)),
        )

    def _excerpt(self, begin: int, end: int) -> str:
        return self._tokenizer.decode(self._split.read(begin, end).tolist()) if end > begin else ""

    @cached_property
    def _layout(self) -> PaddedLayout:
        if self._windows.layout is not None:
            return self._windows.layout
        split = self._split
        starts = split.document_starts if split.knows_documents else np.zeros(1, np.int64)
        return PaddedLayout(starts, split.num_tokens)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._component.store.tokenizer()
