"""A bigram model of the training text: the bar that a language model has to clear first."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tttscale.config import Config, load_config
from tttscale.data import Split, TokenStore, Windows
from tttscale.errors import DataError
from tttscale.observe import read_metrics

LARGEST_VOCABULARY = 4096
_READ_TOKENS = 1 << 22
_SMOOTHING = 0.1
"""Pseudo-counts of each successor, so that an unseen pair has a probability."""


@dataclass(frozen=True)
class Comparison:
    """A run's held-out loss beside the bigram's, on the same tokens."""

    run_bits: float
    """Bits per token of the run's last evaluation."""
    bigram_bits: float
    crossed_at_step: int | None
    """First evaluated step at which the run was better."""
    tokens_per_byte: float
    """Held-out tokens per byte of text; about 1 for the byte tokenizer."""
    tokens: int

    def render(self) -> str:
        """For a person."""
        run, bigram = (bits * self.tokens_per_byte for bits in (self.run_bits, self.bigram_bits))
        if self.crossed_at_step is None:
            verdict = "the run has not come below the bigram yet; train longer"
        else:
            verdict = f"the run first came below the bigram at step {self.crossed_at_step}"
            if self.run_bits >= self.bigram_bits:
                verdict += ", and is above it now"
        return (
            f"held-out text, {self.tokens:,} tokens\n"
            f"  this run       {run:.3f} bits per byte\n"
            f"  bigram         {bigram:.3f} bits per byte\n"
            f"{verdict}"
        )


def compare(run: Path) -> Comparison:
    """Compare a finished run with a bigram model of its own training split.

    Raises:
        DataError: no such run, no held-out losses in it, or a vocabulary too large for a table.
    """
    if not (run / "config.yaml").is_file():
        raise DataError(
            f"{run} is not a run's folder: it has no config.yaml. Give run.dir/run.name."
        )
    config = load_config(run / "config.yaml")
    records = [r for r in read_metrics(run / "metrics.jsonl") if "heldout_loss" in r]
    if not records:
        raise DataError(
            f"{run}/metrics.jsonl has no held-out losses. Train with evaluate.sequences=1 or more."
        )
    if config.data.store is None:
        raise DataError(
            f"{run} trained on data.blend, a blend of {len(config.data.parts)} stores, but a bigram "
            "table is of one store's text. Give a run with data.store."
        )
    try:
        store = TokenStore.open(config.data.store)
    except DataError as error:
        raise DataError(f"data.store = {error}") from None
    log_probabilities = bigram_table(
        store.split(config.data.split), store.info.tokenizer.vocab_size
    )
    loss, tokens = _heldout_loss(config, store, log_probabilities)
    better = [r["step"] for r in records if r["heldout_loss"] < loss]
    heldout = store.split(config.data.heldout_split)
    ln2 = math.log(2)
    return Comparison(
        run_bits=records[-1]["heldout_loss"] / ln2,
        bigram_bits=loss / ln2,
        crossed_at_step=better[0] if better else None,
        tokens_per_byte=heldout.num_tokens / max(heldout.text_bytes, 1),
        tokens=tokens,
    )


def bigram_table(split: Split, vocabulary: int) -> np.ndarray:
    """Log probabilities [V, V] of the next token given one token, add-0.1 smoothed.

    Raises:
        DataError: more than 4096 token ids.
    """
    if vocabulary > LARGEST_VOCABULARY:
        raise DataError(
            f"a bigram table of {vocabulary} ids squared is too large; it is meant for stores of bytes "
            f"(at most {LARGEST_VOCABULARY} ids)"
        )
    counts = np.zeros(vocabulary * vocabulary, dtype=np.float64)
    for begin in range(0, split.num_tokens - 1, _READ_TOKENS):
        tokens = split.read(begin, min(begin + _READ_TOKENS + 1, split.num_tokens)).astype(np.int64)
        pairs = tokens[:-1] * vocabulary + tokens[1:]
        counts += np.bincount(pairs, minlength=counts.size)
    table = counts.reshape(vocabulary, vocabulary) + _SMOOTHING
    return np.log(table / table.sum(axis=1, keepdims=True))


def _heldout_loss(
    config: Config, store: TokenStore, log_probabilities: np.ndarray
) -> tuple[float, int]:
    """Mean nats on the windows that the run was evaluated on."""
    windows = Windows(
        store.split(config.data.heldout_split),
        config.data.sequence_length,
        config.run.seed,
        config.model.mini_batch_size,
        config.data.documents,
    )
    total, count = 0.0, 0
    for i in range(config.evaluate.sequences):
        chunk = windows.window(i).chunk(0, windows.sequence_tokens)
        valid = chunk.labels >= 0
        total -= float(log_probabilities[chunk.ids[valid], chunk.labels[valid]].sum())
        count += int(valid.sum())
    return total / max(count, 1), count
