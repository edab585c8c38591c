"""What a build left out, changed and noticed: counted while reading, said at the end, kept in the store."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tttscale.data.builder.documents import Bad
from tttscale.data.store.findings import SAID

MOST_EXAMPLES = 5
"""Bad lines, rows and files that are named in the end."""


@dataclass
class Notes:
    """What was noticed in one piece of the sources.

    Attributes:
        documents: Documents read, those that were left out too.
        counts: By the keys of `SAID`.
        firsts: Where the first of each was.
        skipped: Documents left out since they are bad, by the reason.
        bad: The first of them.
    """

    documents: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    bad: list[Bad] = field(default_factory=list)

    def count(self, what: str, origin: str, number: int = 1) -> None:
        """Counts `number` of `what`, a key of `SAID`."""
        assert what in SAID, what
        if number:
            self.counts[what] += number
            self.firsts.setdefault(what, origin)

    def skip(self, bad: Bad) -> None:
        """Counts a document that is left out."""
        self.skipped[bad.reason] += 1
        if len(self.bad) < MOST_EXAMPLES:
            self.bad.append(bad)

    def as_json(self) -> dict:
        """Plain values."""
        plain = {"counts": dict(self.counts), "skipped": dict(self.skipped), "firsts": self.firsts}
        return plain | {"documents": self.documents, "bad": [list(bad) for bad in self.bad]}

    @classmethod
    def of_json(cls, plain: dict) -> "Notes":
        """The inverse of `as_json`."""
        counts, skipped = Counter(plain["counts"]), Counter(plain["skipped"])
        bad = [Bad(*found) for found in plain["bad"]]
        return cls(plain["documents"], counts, plain["firsts"], skipped, bad)

    @classmethod
    def together(cls, parts: Iterable["Notes"]) -> "Notes":
        """Those of all pieces, in their order."""
        whole = cls()
        for part in parts:
            whole.documents += part.documents
            whole.counts += part.counts
            whole.skipped += part.skipped
            whole.firsts = part.firsts | whole.firsts
            whole.bad = (whole.bad + part.bad)[:MOST_EXAMPLES]
        return whole
