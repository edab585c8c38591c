"""Other ranks of a host, as processes that run the same sweeps while one rank is measured.

Cores that share caches, memory or a physical core slow each other, so a rank beside others needs more CPU
time for the same work than one that is alone.
"""

import signal
import subprocess
from types import TracebackType

from tttscale.bench.report import start_worker
from tttscale.config.schema import Config

READY = "computing"
"""What a companion prints when it has begun."""


class Companions:
    """Processes that compute until the block ends.

    Args:
        config: of the run, as of a job of one process.
        tokens: of the chunks that they compute.
        count: of processes.

    Raises:
        RuntimeError: a companion ended before it computed; its own message is on stderr.
    """

    def __init__(self, config: Config, tokens: int, count: int) -> None:
        self._words = (config.model_dump_json(), str(tokens))
        self._count = count
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Companions":
        module = "tttscale.bench.companion_worker"
        self._running = [start_worker(module, *self._words) for _ in range(self._count)]
        for companion in self._running:
            assert companion.stdout is not None
            if not any(line.strip() == READY for line in companion.stdout):
                code = companion.wait()
                self._end()
                raise RuntimeError(f"a companion ended with {code}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def pause(self) -> None:
        """Leave the cores to others."""
        for companion in self._running:
            companion.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Compute again."""
        for companion in self._running:
            companion.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        for companion in self._running:
            companion.kill()
        for companion in self._running:
            companion.communicate()
        self._running = []
