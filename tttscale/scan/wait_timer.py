"""How long a device stood still for messages."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class WaitTimer:
    """Adds up waits, one after the other.

    On a CPU a receive holds up the host. On a GPU it only holds up the stream, long after the host has
    moved on, so events before and after it are read at the end.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._host_seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count the time inside as a wait of the device."""
        if self._cuda:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            yield
            after.record()
            self._events.append((before, after))
        else:
            began = time.perf_counter()
            yield
            self._host_seconds += time.perf_counter() - began

    @contextmanager
    def measure_host(self) -> Iterator[None]:
        """Count the time inside where it holds up the device: on a CPU. A GPU does not wait for the host."""
        if self._cuda:
            yield
        else:
            with self.measure():
                yield

    def take_seconds(self) -> float:
        """All waits since this was last called."""
        if self._events:
            self._events[-1][1].synchronize()
        total = self._host_seconds + sum(a.elapsed_time(b) for a, b in self._events) / 1e3
        self._host_seconds = 0.0
        self._events.clear()
        return total
