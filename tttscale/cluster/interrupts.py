"""SIGINT and SIGTERM end a job cleanly, on every rank, without a traceback; a run may be saved first."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REPEATS_SECONDS = 2.0
"""A terminal and a launcher may both deliver one Ctrl-C; signals within this time count as one."""
_GRACE_SECONDS = 5.0
"""How long the main thread may stay in foreign code that no handler can interrupt, such as a rendezvous."""


class Interrupted(BaseException):
    """The job was told to end. Not an Exception, so that no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        """130 for SIGINT, 143 for SIGTERM, as shells count."""


class Interrupts:
    """While entered, the first signal raises Interrupted in the main thread.

    Signals right after it count as the same one; a later one ends the process at once. The handlers stay
    after a signal, so that cleaning up is not interrupted. If the main thread does not get to handle the
    signal, another thread ends the process. While a run takes SIGTERM as a request to save it, that thread
    passes the request on, since the main thread may wait for other ranks in foreign code for long.
    """

    current: ClassVar["Interrupts | None"] = None
    """The one that is entered in this process."""

    def __init__(self) -> None:
        self.saves: SaveRequests | None = None
        """What takes SIGTERM instead of ending the process."""
        self._first_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup: socket.socket | None = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # nohup and background jobs of a shell ignore a signal on purpose.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            if self._before:
                self._watch()
                Interrupts.current = self
        return self

    def _watch(self) -> None:
        """Start the other thread, to whose socket Python writes signals whatever the main thread does."""
        reader, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._end_if_blocked, args=(reader,), daemon=True).start()

    def _end_if_blocked(self, reader: socket.socket) -> None:
        with reader:
            while numbers := reader.recv(1):
                if numbers[0] == signal.SIGTERM and self.saves is not None:
                    if not self.saves.request(signal.SIGTERM):
                        os._exit(128 + signal.SIGTERM)
                elif numbers[0] in self._before:
                    time.sleep(_GRACE_SECONDS)
                    if self._first_at is None:
                        os._exit(128 + numbers[0])

    def takes_sigterm(self) -> bool:
        """Whether SIGTERM comes here: no one has asked to ignore it."""
        return signal.SIGTERM in self._before

    def release(self) -> None:
        """Give the signals back before the end, to a command that hands them on to one of its own."""
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        Interrupts.current = None
        if self._first_at is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            self._wakeup.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self.saves is not None:
            return  # the other thread has passed it on
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            raise Interrupted(number)
        if now - self._first_at > _REPEATS_SECONDS:
            os._exit(128 + number)


class SaveRequests:
    """While entered, SIGUSR1 requests that the run is saved and ended, and does not end the process.

    Slurm sends it before a job's time limit (`--signal=USR1@300`). One rank that receives it is enough.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        """The signal that was received first."""
        self._heard_at = 0.0
        self._before: Any = None

    def __enter__(self) -> "SaveRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR1, self._hear)
            # A supervised rank is born deaf to it: what came while it started is heard now.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)

    @contextmanager
    def also_sigterm(self) -> Iterator[None]:
        """While entered, the first SIGTERM requests the same; a second one ends the process at once.

        Kubernetes, spot machines and Slurm's preemption send nothing else before they kill.
        """
        interrupts = Interrupts.current
        if interrupts is None or not interrupts.takes_sigterm():
            yield
            return
        interrupts.saves = self
        try:
            yield
        finally:
            interrupts.saves = None

    def request(self, number: signal.Signals) -> bool:
        """Note a signal.

        Returns:
            False if the same one was noted before; right after it, it counts as that one.
        """
        now = time.monotonic()
        if self.heard == number:
            return now - self._heard_at <= _REPEATS_SECONDS
        self.heard, self._heard_at = number, now
        return True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.request(signal.Signals(number))
