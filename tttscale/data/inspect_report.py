"""What a training step reads, as records and as lines for people."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ShownDocument:
    """The part of a document that lies in a window.

    Attributes:
        document: Its number in the split.
        position: Where it begins in the window.
        tokens: How many of its tokens lie in the window.
        document_tokens: How many it has in all.
        goes_on: Whether it began before the window.
        continues: Whether it continues behind the window.
        text: Its first tokens in the window, decoded; empty if none were asked for.
    """

    document: int
    position: int
    tokens: int
    document_tokens: int
    goes_on: bool
    continues: bool
    text: str


@dataclass(frozen=True)
class ShownSequence:
    """One sequence of a step.

    Attributes:
        index: Which sequence of the run's data it is, counted over all steps.
        store: Path of its store.
        split: Split of the store.
        epoch: How often the store was gone through before, from 0.
        window: Number of the window in the order of the text.
        windows: Windows per epoch.
        begin: First token of the split in the window.
        end: Behind the last one.
        padding: Share of the positions that hold no token.
        documents: The first documents in it.
        documents_left_out: How many more there are.
    """

    index: int
    store: str
    split: str
    epoch: int
    window: int
    windows: int
    begin: int
    end: int
    padding: float
    documents: tuple[ShownDocument, ...]
    documents_left_out: int


@dataclass(frozen=True)
class ShownStep:
    """All sequences of a step, whatever ranks take them.

    Attributes:
        step: The training step.
        data_step: The step number of its data, which data.skip_steps counts.
        sequence_tokens: Positions per sequence.
        mode: data.documents.
        sequences: In the order of the run.
    """

    step: int
    data_step: int
    sequence_tokens: int
    mode: str
    sequences: tuple[ShownSequence, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def render_step(shown: ShownStep) -> str:
    """For people: control characters are written as escapes."""
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


def _sequence_lines(sequence: ShownSequence) -> Iterator[str]:
    documents = len(sequence.documents) + sequence.documents_left_out
    yield (
        f"sequence {sequence.index}: {sequence.store} {sequence.split}, epoch {sequence.epoch}, "
        f"window {sequence.window:,} of {sequence.windows:,}, tokens {sequence.begin:,} to "
        f"{sequence.end:,}, {documents:,} document(s), {sequence.padding:.1%} padding"
    )
    for document in sequence.documents:
        borders = [f"{document.tokens:,} of {document.document_tokens:,} tokens"]
        borders += ["goes on from before"] if document.goes_on else []
        borders += ["continues after"] if document.continues else []
        yield (
            f"  at {document.position:,}: document {document.document:,}, {', '.join(borders)}"
            + (f": {escaped(document.text)}" if document.text else "")
        )
    if sequence.documents_left_out:
        yield f"  and {sequence.documents_left_out:,} more document(s); see --documents"
