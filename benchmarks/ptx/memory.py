"""Memory that knows who wrote what: bounds, uninitialised reads, and races between the warps of a block.

Threads run in lockstep here, so that a missing barrier changes no result. Instead every access is compared
with those before it: two warps, or two blocks, may not touch the same place, one of them writing, unless
a barrier is in between. Places are pairs of bytes, since no access is narrower.
"""

import numpy as np

MANY = -2


class FaultError(Exception):
    """An access that a GPU may not, or need not, carry out as meant."""


class Clock:
    """Counts barriers, over all blocks of a launch."""

    def __init__(self) -> None:
        self.now, self.block_began = 0, 0

    def barrier(self) -> None:
        """Count a barrier: accesses before it are over."""
        self.now += 1

    def next_block(self) -> None:
        """Begin another block, in which accesses of the blocks before it are foreign."""
        self.now += 1
        self.block_began = self.now


class Space:
    """Global or shared memory, as 16-bit places."""

    def __init__(self, name: str, places: int, clock: Clock) -> None:
        self.name, self.clock = name, clock
        self.data = np.zeros(places, np.uint16)
        self.known = np.zeros(places, bool)
        self.writer = np.full(places, -1, np.int32)
        self.wrote_at = np.full(places, -1, np.int64)
        self.reader = np.full(places, -1, np.int32)
        self.read_at = np.full(places, -1, np.int64)
        # What proxies other than the threads' own do to shared memory.
        self.fenced = np.ones(places, bool)
        self.landing = np.zeros(places, np.int16)
        self.in_use = np.zeros(places, np.int16)

    def places(self, addresses: np.ndarray, count_bytes: int) -> np.ndarray:
        """[m] byte addresses -> [m, count] places."""
        if (addresses % min(count_bytes, 16)).any():
            raise FaultError(f"{self.name}: misaligned access of {count_bytes} bytes")
        at = addresses[:, None] // 2 + np.arange(count_bytes // 2)
        self.check_bounds(at)
        return at

    def check_bounds(self, at: np.ndarray) -> None:
        """Raise a FaultError if a place is outside."""
        if at.size and (at.min() < 0 or at.max() >= len(self.data)):
            raise FaultError(f"{self.name}: out of bounds")

    def read(self, at: np.ndarray, warps: np.ndarray) -> np.ndarray:
        """[m, k] places, read by threads of these warps [m] -> their contents."""
        if not self.known[at].all():
            raise FaultError(f"{self.name}: read before anything was written there")
        if self.landing[at].any():
            raise FaultError(f"{self.name}: read while a copy is on its way there")
        self._no_conflict(self.writer[at], self.wrote_at[at], warps, None, "read after write")
        who = np.broadcast_to(warps[:, None], at.shape)
        others = (self.read_at[at] == self.clock.now) & (self.reader[at] != who)
        self.reader[at], self.read_at[at] = np.where(others, MANY, who), self.clock.now
        lost = self.reader[at] != who
        if lost.any():
            self.reader[at[lost]] = MANY
        return self.data[at]

    def write(
        self, at: np.ndarray, warps: np.ndarray, values: np.ndarray, fenced: bool = False
    ) -> None:
        """The same for writing values [m, k]; writing the same value again is no conflict."""
        same = self.known[at] & (self.data[at] == values)
        if (self.landing[at] > 0).any():
            raise FaultError(f"{self.name}: written while a copy is on its way there")
        if ((self.in_use[at] > 0) & ~same).any():
            raise FaultError(f"{self.name}: written while a tensor core reads it")
        self._no_conflict(self.writer[at], self.wrote_at[at], warps, same, "write after write")
        self._no_conflict(self.reader[at], self.read_at[at], warps, same, "write after read")
        self.data[at], self.known[at], self.fenced[at] = values, True, fenced
        if (self.data[at] != values).any():
            raise FaultError(f"{self.name}: several threads write different values at once")
        self.writer[at] = np.broadcast_to(warps[:, None], at.shape)
        self.wrote_at[at] = self.clock.now

    def _no_conflict(
        self,
        who: np.ndarray,
        when: np.ndarray,
        warps: np.ndarray,
        harmless: np.ndarray | None,
        kind: str,
    ) -> None:
        recent = (when == self.clock.now) & (who != warps[:, None])
        # Blocks run one after the other here, but in any order, or at once, on a GPU.
        foreign = (when >= 0) & (when < self.clock.block_began)
        bad = recent | foreign
        if harmless is not None:
            bad &= ~harmless
        if bad.any():
            between = "blocks" if (foreign & bad).any() else "warps without a barrier"
            raise FaultError(f"{self.name}: {kind} by different {between}")
