"""SIGINT and SIGTERM end a job cleanly, on every rank, without a traceback."""

import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

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
    signal, another thread ends the process.
    """

    def __init__(self) -> None:
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
                if numbers[0] in self._before:
                    time.sleep(_GRACE_SECONDS)
                    if self._first_at is None:
                        os._exit(128 + numbers[0])

    def __exit__(self, *_: object) -> None:
        if self._first_at is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            self._wakeup.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
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
        self.heard = False
        """Whether the signal was received."""
        self._before: Any = None

    def __enter__(self) -> "SaveRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR1, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
