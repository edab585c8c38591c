"""Which rank owns which chunk of which sequence."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

Kind = Literal["striped", "contiguous"]


@dataclass(frozen=True)
class Layout:
    """M sequences of `length_tokens`, each cut into chunks of `chunk_tokens`, over R ranks.

    striped: chunk c of sequence m on rank (c + m R / M) mod R, so that M wavefronts start at
    different ranks. contiguous: n / R neighbouring chunks on each rank.
    """

    kind: Kind
    length_tokens: int
    chunk_tokens: int
    ranks: int = 1
    sequences: int = 1

    @property
    def chunks(self) -> int:
        """Number n of chunks of a sequence; the last may be short."""
        return -(-self.length_tokens // self.chunk_tokens)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First token of a chunk and the one after its last."""
        begin = chunk * self.chunk_tokens
        return begin, min(begin + self.chunk_tokens, self.length_tokens)

    def owner(self, sequence: int, chunk: int) -> int:
        """Rank that runs this chunk."""
        assert 0 <= chunk < self.chunks
        assert 0 <= sequence < self.sequences
        if self.kind == "striped":
            return (chunk + sequence * self.ranks // self.sequences) % self.ranks
        return chunk * self.ranks // self.chunks

    def neighbour(self, sequence: int, chunk: int, offset: int) -> int | None:
        """Owner of the chunk to the left (-1) or right (+1); None beyond the sequence."""
        beyond = not 0 <= chunk + offset < self.chunks
        return None if beyond else self.owner(sequence, chunk + offset)

    def own(self, rank: int) -> list[tuple[int, int]]:
        """(sequence, chunk) pairs of a rank."""
        pairs = product(range(self.sequences), range(self.chunks))
        return [pair for pair in pairs if self.owner(*pair) == rank]
