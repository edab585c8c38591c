"""How long the messages over a boundary are."""

from collections.abc import Callable

from tttscale.scan.schedule import CarryKey, Phase, Schedule


class MessageBytes:
    """Lengths by boundary, layer and part; asked for once where they are alike at all boundaries."""

    def __init__(self, schedule: Schedule, carry_bytes: Callable[[CarryKey], int]) -> None:
        """Compare the first boundary with the last.

        Args:
            schedule: names parts and boundaries.
            carry_bytes: length of the message that carries a part. If it depends on the boundary, it grows
                or shrinks throughout the sequence.
        """
        self._schedule, self._carry_bytes = schedule, carry_bytes
        self._first: list[int] = []
        self.differ = False
        """They depend on the boundary."""
        boundaries = schedule.layout.chunks - 1
        if boundaries > 0:
            self._first = self._ask(0)
            self.differ = self._first != self._ask(boundaries - 1)

    def at(self, boundary: int) -> list[int]:
        """Over one boundary: of all layers' parts, in order."""
        return self._ask(boundary) if self.differ else self._first

    def _ask(self, boundary: int) -> list[int]:
        return [
            self._carry_bytes(CarryKey(Phase.FORWARD, 0, boundary, layer, part))
            for layer, names in enumerate(self._schedule.parts)
            for part in names
        ]
