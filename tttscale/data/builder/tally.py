"""Counting what a build left out, changed and noticed; it is reported at the end and kept in the store."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tttscale.data.builder.documents import BadDocument
from tttscale.data.store.findings import FINDINGS

MOST_EXAMPLES = 5
"""The most bad lines, rows and files that are named at the end."""


@dataclass
class Tally:
    """What was left out, changed and noticed in one slice of the sources, or in all of them."""

    documents: int = 0
    """Documents read, those that were left out too."""
    counts: Counter[str] = field(default_factory=Counter)
    """By the keys of `FINDINGS`."""
    firsts: dict[str, str] = field(default_factory=dict)
    """Where the first of each was."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Documents left out since they are bad, by the reason."""
    bad: list[BadDocument] = field(default_factory=list)
    """The first of them."""
    digests: dict[str, str] = field(default_factory=dict)
    """16-byte blake2b of files of ready ids, hexadecimal, by their paths."""

    def count(self, what: str, origin: str, number: int = 1) -> None:
        """Count `number` of `what`, a key of `FINDINGS`."""
        assert what in FINDINGS, what
        if number:
            self.counts[what] += number
            self.firsts.setdefault(what, origin)

    def skip(self, bad: BadDocument) -> None:
        """Count a document that is left out."""
        self.skipped[bad.reason] += 1
        if len(self.bad) < MOST_EXAMPLES:
            self.bad.append(bad)

    def as_json(self) -> dict:
        """Plain values."""
        plain = {"counts": dict(self.counts), "skipped": dict(self.skipped), "firsts": self.firsts}
        plain |= {"documents": self.documents, "bad": [list(bad) for bad in self.bad]}
        return plain | ({"digests": self.digests} if self.digests else {})

    @classmethod
    def of_json(cls, plain: dict) -> "Tally":
        """The inverse of `as_json`."""
        counts, skipped = Counter(plain["counts"]), Counter(plain["skipped"])
        bad = [BadDocument(*found) for found in plain["bad"]]
        digests = plain.get("digests", {})
        return cls(plain["documents"], counts, plain["firsts"], skipped, bad, digests)

    @classmethod
    def sum(cls, tallies: Iterable["Tally"]) -> "Tally":
        """The tally of all slices, given in their order."""
        total = cls()
        for tally in tallies:
            total.documents += tally.documents
            total.counts += tally.counts
            total.skipped += tally.skipped
            total.firsts = tally.firsts | total.firsts
            total.bad = (total.bad + tally.bad)[:MOST_EXAMPLES]
            total.digests |= tally.digests
        return total
