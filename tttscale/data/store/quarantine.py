"""The quarantine: damaged ranges of a store, noted so that the rest can still be trained on."""

import json
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from tttscale import __version__
from tttscale.data.store.manifest import Record, SplitName
from tttscale.data.store.storage import Storage
from tttscale.errors import DataError
from tttscale.files import write_text
from tttscale.reading import parse_json

QUARANTINE_FILE = "quarantine.json"
Damaged = Literal["refuse", "pad"]
"""How damage is handled: refuse the store, or read what is quarantined as padding."""


class DamagedRange(Record):
    """Tokens [begin, end) of a split that cannot be trusted."""

    split: SplitName
    begin: int = Field(ge=0)
    end: int = Field(gt=0)
    file: str
    reason: str


class Quarantine(Record):
    """What `data verify --quarantine` found."""

    format_version: Literal[1] = 1
    tttscale_version: str | None = None
    """The tttscale that wrote it; 0.1.0 may not have written this."""
    fingerprint: str
    """The fingerprint of its store."""
    found: str
    """When the damage was found, ISO 8601."""
    ranges: tuple[DamagedRange, ...] = Field((), strict=False)  # JSON has lists only

    def of(self, split: str) -> list[tuple[int, int]]:
        """Damaged ranges of a split, ascending."""
        return sorted((r.begin, r.end) for r in self.ranges if r.split == split)

    def holds(self, file: str, begin: int = 0, end: int = 0) -> bool:
        """Whether values [begin, end) of `file` are quarantined; without a range, whether any are."""
        ranges = [r for r in self.ranges if r.file == file]
        return any(not end or r.begin <= begin < end <= r.end for r in ranges)

    def render(self) -> str:
        """Write a line for people, to follow those of `render_info`."""
        counts = (
            f"{sum(end - begin for begin, end in ranges):,} tokens of {split} in {len(ranges)} ranges"
            for split in get_args(SplitName)
            if (ranges := self.of(split))
        )
        return f"quarantined {', '.join(counts)}, found {self.found}; data.damaged=pad reads them as padding"

    def write(self, folder: Path) -> None:
        """Write the store's quarantine file, whole or not at all."""
        fields = self.model_dump() | {"tttscale_version": __version__}
        write_text(folder / QUARANTINE_FILE, json.dumps(fields, indent=1) + "\n")


def read_quarantine(storage: Storage, fingerprint: str) -> Quarantine | None:
    """The quarantine file of the store with that fingerprint; None if there is none.

    Raises:
        DataError: it is damaged, or belongs to another store.
    """
    data = storage.read(QUARANTINE_FILE)
    if data is None:
        return None
    name, again = f"{storage.location}/{QUARANTINE_FILE}", "Remove it and verify again."
    try:
        fields = parse_json(data)
    except ValueError as error:
        raise DataError(
            f"{name} is not what `tttscale data verify --quarantine` writes ({error}). {again}"
        ) from None
    found = Quarantine.read(fields, name, DataError, again)
    if found.fingerprint != fingerprint:
        raise DataError(
            f"{storage.location}: {QUARANTINE_FILE} belongs to another store (fingerprint "
            f"{found.fingerprint}, this one has {fingerprint}). Remove it and verify again."
        )
    return found
