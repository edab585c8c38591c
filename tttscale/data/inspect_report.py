"""What a training step reads, as plain values and as lines for people."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DocumentReport:
    """A document, or the part of it in a window."""

    document: int
    """Its number in the split."""
    position: int
    """Where it begins in the window."""
    tokens: int
    """Its tokens in the window."""
    document_tokens: int
    """How many it has in all."""
    goes_on: bool
    """Whether it began before the window."""
    continues: bool
    """Whether it continues after the window."""
    text: str
    """Its first tokens in the window, decoded; empty if no text is decoded."""


@dataclass(frozen=True)
class SequenceReport:
    """One sequence of a step."""

    index: int
    """Which sequence of the run's data it is, counted over all steps."""
    store: str
    """Path of its store."""
    split: str
    """Split of the store."""
    epoch: int
    """How often all windows were read before, from 0."""
    window: int
    """Number of the window in the order of the text."""
    windows: int
    """Windows per epoch."""
    begin: int
    """First token of the split in the window."""
    end: int
    """End of its tokens, exclusive."""
    padding: float
    """Share of the positions that hold no token."""
    documents: tuple[DocumentReport, ...]
    """The first documents in it."""
    documents_left_out: int
    """How many more there are."""


@dataclass(frozen=True)
class StepReport:
    """All sequences of a step, whatever ranks take them."""

    step: int
    """The training step."""
    data_step: int
    """The step number of its data, which data.skip_steps counts."""
    sequence_tokens: int
    """Positions per sequence."""
    mode: str
    """data.documents."""
    sequences: tuple[SequenceReport, ...]
    """In the order of the run."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def render_step(shown: StepReport) -> str:
    """Write lines for people, with control characters as escapes."""
    moved = "" if shown.step == shown.data_step else f" reads the data of step {shown.data_step}"
    lines = [
        f"step {shown.step}{moved}: {len(shown.sequences)} sequence(s) of "
        f"{shown.sequence_tokens:,} tokens, data.documents {shown.mode}"
    ]
    for sequence in shown.sequences:
        lines += _sequence_lines(sequence)
    return "\n".join(lines)


def escaped(text: str) -> str:
    """`text` on one line that cannot steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _sequence_lines(sequence: SequenceReport) -> Iterator[str]:
    documents = len(sequence.documents) + sequence.documents_left_out
    yield (
        f"sequence {sequence.index}: {sequence.store} {sequence.split}, epoch {sequence.epoch}, "
        f"window {sequence.window:,} of {sequence.windows:,}, tokens {sequence.begin:,} to "
        f"{sequence.end:,}, {documents:,} document(s), {sequence.padding:.1%} padding"
    )
    for document in sequence.documents:
        notes = [f"{document.tokens:,} of {document.document_tokens:,} tokens"]
        notes += ["continued from before"] if document.goes_on else []
        notes += ["continues after"] if document.continues else []
        yield (
            f"  at {document.position:,}: document {document.document:,}, {', '.join(notes)}"
            + (f": {escaped(document.text)}" if document.text else "")
        )
    if sequence.documents_left_out:
        yield f"  and {sequence.documents_left_out:,} more document(s); see --documents"
