"""A bigram model of the training text: the first baseline that a language model has to beat."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tttscale.data import TokenSplit
from tttscale.data.inspect_step import open_run
from tttscale.data.windows.window import WindowSource
from tttscale.errors import DataError
from tttscale.observe import read_metrics

LARGEST_VOCABULARY = 4096
_READ_TOKENS = 1 << 22
_SMOOTHING = 0.1
"""Pseudo-count of each successor, so that an unseen pair has a probability."""


@dataclass(frozen=True)
class Comparison:
    """A run's held-out loss and the bigram's, on the same tokens."""

    run_bits: float
    """Bits per token of the run's last evaluation."""
    bigram_bits: float
    crossed_at_step: int | None
    """First evaluated step at which the run was better; None if it never was."""
    tokens_per_byte: float | None
    """Held-out tokens per byte of text; about 1 for the byte tokenizer; None: of ready ids the text is not
    known."""
    tokens: int
    """Tokens of the comparison."""

    def render(self) -> str:
        """Format the comparison for the console."""
        unit = "token" if self.tokens_per_byte is None else "byte"
        run, bigram = (
            bits * (self.tokens_per_byte or 1) for bits in (self.run_bits, self.bigram_bits)
        )
        if self.crossed_at_step is None:
            verdict = "the run has not come below the bigram yet; train longer"
        else:
            verdict = f"the run first came below the bigram at step {self.crossed_at_step}"
            if self.run_bits >= self.bigram_bits:
                verdict += ", and is above it now"
        return (
            f"held-out text, {self.tokens:,} tokens\n"
            f"  this run       {run:.3f} bits per {unit}\n"
            f"  bigram         {bigram:.3f} bits per {unit}\n"
            f"{verdict}"
        )


def compare(run: Path, overrides: Sequence[str] = ()) -> Comparison:
    """Compare a finished run with a bigram model of its own training split.

    Args:
        run: the run's folder.
        overrides: KEY=VALUE for its configuration, such as data.store=PATH for a store that moved.

    Raises:
        ConfigError: an override is wrong.
        DataError: no such run, no held-out losses in it, a vocabulary too large for a table, or stores that
            differ from those it trained on.
    """
    if not (run / "config.yaml").is_file():
        raise DataError(
            f"{run} is not a run's folder: it has no config.yaml. Give run.dir/run.name."
        )
    config, tokens = open_run(run, overrides)
    records = [r for r in read_metrics(run / "metrics.jsonl") if "heldout_loss" in r]
    if not records or tokens.heldout is None:
        raise DataError(
            f"{run}/metrics.jsonl has no held-out losses. Train with evaluate.sequences=1 or more, "
            "on a store that holds out as much as a window."
        )
    if config.data.blend is not None:
        raise DataError(
            f"{run} trained on data.blend, a blend of {len(config.data.components)} stores, but a bigram "
            "table is of one store's text. Give a run with data.store."
        )
    (component,) = tokens.components
    vocabulary = component.store.info.tokenizer.vocab_size
    table = bigram_table(component.splits["train"], vocabulary)
    loss, count = _heldout_loss(tokens.heldout, config.evaluate.sequences, table)
    better = [r["step"] for r in records if r["heldout_loss"] < loss]
    heldout = component.splits["heldout"]
    ln2 = math.log(2)
    return Comparison(
        run_bits=records[-1]["heldout_loss"] / ln2,
        bigram_bits=loss / ln2,
        crossed_at_step=better[0] if better else None,
        tokens_per_byte=heldout.num_tokens / heldout.text_bytes if heldout.text_bytes else None,
        tokens=count,
    )


def bigram_table(split: TokenSplit, vocabulary: int) -> np.ndarray:
    """Return log probabilities of the next token given one token: fp64 [V, V], add-0.1 smoothed.

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
    windows: WindowSource, sequences: int, log_probabilities: np.ndarray
) -> tuple[float, int]:
    """Return mean nats per token on the windows that the run was evaluated on, and their tokens."""
    total, count = 0.0, 0
    for i in range(sequences):
        chunk = windows.window(i).chunk(0, windows.sequence_tokens)
        valid = chunk.labels >= 0
        total -= float(log_probabilities[chunk.ids[valid], chunk.labels[valid]].sum())
        count += int(valid.sum())
    return total / max(count, 1), count
