"""What a rank does in one step: its tasks, which of them keep their graphs, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass

from tttscale.scan.schedule import ChunkTask


@dataclass(frozen=True)
class StepPlan:
    """What this rank does in one step."""

    train: bool
    tasks: tuple[ChunkTask, ...]
    """In the order of the forward sweep; the backward sweep takes them in reverse."""
    kept: frozenset[ChunkTask]
    """The last ones, whose graphs are built at once and kept."""

    def reads(self) -> Iterator[ChunkTask]:
        """Whose tokens are read, in order: all, and in training again those that are recomputed."""
        yield from self.tasks
        if self.train:
            yield from (task for task in reversed(self.tasks) if task not in self.kept)
