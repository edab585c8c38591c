"""This start of a run among those before it: noted in the run's folder, refused where it leads nowhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tttscale.cluster.ranks import Ranks
from tttscale.codes import BUG, DONE
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.errors import CrashLoopError, TTTScaleError
from tttscale.observe.guard import warn
from tttscale.observe.metrics import last_records
from tttscale.supervise import attempts
from tttscale.train.checkpoint.manager import Checkpoint
from tttscale.train.run_folder import METRICS, run_folder


class RunAttempt:
    """A start of a run. Rank 0 notes it; the notes only help, so a disk that refuses them ends no run."""

    def __init__(self, config: Config, ranks: Ranks, environ: Mapping[str, str]) -> None:
        self._most = config.checkpoint.max_attempts
        self._folder, self._ranks = run_folder(config), ranks
        self._variable, self._restart = attempts.restarts(environ)
        self._number: int | None = None
        self.code = DONE.number
        """Exit code of an end without an error."""

    def check(self, mesh: Mesh, resumed: Checkpoint | None) -> list[str]:
        """Look for a crash loop; all ranks call this.

        Args:
            mesh: all ranks.
            resumed: the checkpoint that the run resumes from.

        Returns:
            A notice of it, of a start by hand.

        Raises:
            CrashLoopError: on all ranks, of a start that was not made by hand.
        """
        text = self._loop(resumed) if mesh.rank == 0 else ""
        if self._variable and (text := mesh.gather_texts(text)[0]):
            raise CrashLoopError(text)
        return [text] if text else []

    def begin(self, resumed: Checkpoint | None) -> None:
        """Note the start; the run's folder is claimed by this process."""
        hosts = -(-self._ranks.world_size // self._ranks.local_world_size)
        start = attempts.this_process(
            _step(resumed), self._restart, self._ranks.source, self._ranks.world_size, hosts
        )
        try:
            self._number = attempts.begin(self._folder, start)
        except OSError as error:
            warn(f"{self._folder / attempts.ATTEMPTS} is not written: {error}; the run continues")

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note how the block ends, if the start was noted."""
        try:
            yield
        except BaseException as error:
            kind = "" if isinstance(error, TTTScaleError) else f"{type(error).__name__}: "
            self._end(getattr(error, "exit_code", BUG.number), f"{kind}{error}")
            raise
        self._end(self.code, "")

    def _end(self, code: int, cause: str) -> None:
        if self._number is None:
            return
        records = []
        with suppress(OSError):
            records = last_records(self._folder / METRICS)
        step = max((record["step"] for record in records), default=0)
        with suppress(OSError):
            attempts.end(self._folder, self._number, code, step, cause)

    def _loop(self, resumed: Checkpoint | None) -> str:
        """Say what is known of a crash loop; empty without one."""
        before = attempts.read_attempts(self._folder)
        if before and before[-1].end is None and attempts.is_alive(before[-1].start):
            return ""  # the folder is taken, which is said better
        row = attempts.crash_loop(before, _step(resumed), self._most)
        if not row:
            return ""
        text = attempts.describe_loop(row, _step(resumed))
        if not self._variable:
            return f"{text}this start by hand is begun all the same"
        return (
            f"{text}This start ({self._variable}={self._restart}) is not begun: checkpoint.max_attempts = "
            f"{self._most}. See to the cause, then start the same command by hand, which is never refused. "
            f"`tttscale launch status {self._folder}` says more."
        )


def _step(resumed: Checkpoint | None) -> int:
    return 0 if resumed is None else resumed.manifest.step
