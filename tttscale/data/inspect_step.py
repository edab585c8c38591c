"""Finding out what a training step reads, without training."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from tttscale.config import Config, load_config
from tttscale.data.inspect_report import DocumentReport, SequenceReport, StepReport
from tttscale.data.provenance import check_provenance
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.data.windows.mixture import Mixture, MixtureComponent, open_mixture
from tttscale.data.windows.order import data_step, sequence_groups
from tttscale.data.windows.padded_stream import PaddedStream
from tttscale.errors import DataError


def open_run(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, Mixture]:
    """The configuration and the stores of a run's folder, or of a configuration file.

    Raises:
        ConfigError: the configuration is wrong.
        DataError: it is not a run's folder, or its stores are missing or not those it trained on.
    """
    if not path.is_dir():
        config = load_config(path, overrides)
        return config, open_mixture(config)
    if not (path / "config.yaml").is_file():
        raise DataError(
            f"{path} is not a run's folder: it has no config.yaml. Give run.dir/run.name, or a "
            "configuration file."
        )
    config = load_config(path / "config.yaml", overrides)
    tokens = open_mixture(config)
    check_provenance(path, tokens)
    return config, tokens


def inspect_step(
    config: Config, tokens: Mixture, step: int, *, excerpt_tokens: int, most_documents: int
) -> StepReport:
    """Find out what training step `step` reads.

    Args:
        config: the run's configuration.
        tokens: its open stores.
        step: 1, 2, ...; it may be after the run's last one.
        excerpt_tokens: tokens of each document to decode; with 0 no token is read.
        most_documents: documents of each sequence to show.

    Raises:
        DataError: a store is damaged there.
    """
    number, total = data_step(step, config.data.skipped), config.train.sequences_per_step
    (indices,) = sequence_groups(number, total, 1, 0, total)
    stores = {c.key: _StoreInspector(c, excerpt_tokens, most_documents) for c in tokens.components}
    placed = ((index, *tokens.locate(index)) for index in indices)
    sequences = (stores[component.key].sequence(i, local) for i, component, local in placed)
    length, mode = config.data.sequence_length, config.data.documents
    return StepReport(step, number, length, mode, tuple(sequences))


class _StoreInspector:
    """The windows of one store, and the documents in them."""

    def __init__(
        self, component: MixtureComponent, excerpt_tokens: int, most_documents: int
    ) -> None:
        self._component, self._windows = component, component.train
        self._split = component.splits["train"]
        self._excerpt_tokens, self._most_documents = excerpt_tokens, most_documents

    def sequence(self, index: int, local: int) -> SequenceReport:
        """The run's `index`-th sequence, which is the `local`-th of this store."""
        window, length = self._windows.sequence(local).number, self._windows.sequence_tokens
        spans = self._stream.spans(window * length, (window + 1) * length)
        begin, end = int(spans.begins[0]), int(spans.ends[-1])
        present = np.flatnonzero(spans.ends > spans.begins)
        columns = (column[present[: self._most_documents]].tolist() for column in spans)
        shown = tuple(self._document(*row) for row in zip(*columns, strict=True))
        return SequenceReport(
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
            documents_left_out=len(present) - len(shown),
        )

    def _document(self, document: int, begin: int, end: int, position: int) -> DocumentReport:
        first, after = self._stream.raw[document : document + 2].tolist()
        return DocumentReport(
            document=document,
            position=position,
            tokens=end - begin,
            document_tokens=after - first,
            goes_on=begin > first,
            continues=end < after,
            text=self._excerpt(begin, min(end, begin + self._excerpt_tokens)),
        )

    def _excerpt(self, begin: int, end: int) -> str:
        return self._tokenizer.decode(self._split.read(begin, end).tolist()) if end > begin else ""

    @cached_property
    def _stream(self) -> PaddedStream:
        if self._windows.padded_stream is not None:
            return self._windows.padded_stream
        split = self._split
        starts = split.document_starts if split.knows_documents else np.zeros(1, np.int64)
        return PaddedStream(starts, split.num_tokens)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._component.store.tokenizer()
