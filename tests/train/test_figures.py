"""Where the time of a step goes: each artificial delay comes out in the figure that is named for it.

Ranks have clocks that only the delays move, so that the figures are exact however busy the machine is.
"""

import builtins
import time

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.observe.timeline import Held
from tttscale.train.figures import step_figures

DELAY = 8.0
"""Seconds."""
PARTS = ("data_seconds", "exposed_comm_seconds")


class Clock:
    """Of one rank."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", self._read)

    def _read(self):
        self.now += 1e-6  # no step takes no time
        return self.now

    def move(self):
        self.now += DELAY

    def delay(self, owner, name, monkeypatch=None):
        """Let a function of `owner` take longer, each time."""
        plain = getattr(owner, name)

        def slow(*args, **options):
            result = plain(*args, **options)
            self.move()
            return result

        (monkeypatch or builtins).setattr(owner, name, slow)


class SlowLink:
    """A transport on which one thing takes time: to receive, to send, or to get all sent."""

    def __init__(self, inner, clock, what):
        self._inner, self._clock, self._what = inner, clock, what
        self.rank, self.size, self.count = inner.rank, inner.size, 0

    def _slow(self, what):
        if what == self._what:
            self._clock.move()
            self.count += 1

    def irecv(self, *args):
        pending = self._inner.irecv(*args)
        plain = pending.wait

        def wait():
            self._slow("receive")
            return plain()

        pending.wait = wait
        return pending

    def isend(self, *args):
        self._slow("send")
        self._inner.isend(*args)

    def flush(self):
        self._slow("finish")
        self._inner.flush()


class LateChunk:
    """A chunk of tokens that is waited for."""

    def __init__(self, future, clock):
        self._future, self._clock = future, clock

    def result(self):
        self._clock.move()
        return self._future.result()


def late_chunks(reader, clock):
    plain = reader._submit

    def submit(*args):
        future = plain(*args)
        return None if future is None else LateChunk(future, clock)

    reader._submit = submit


def delayed(ranks, what, stage):
    """The first two steps' records, with a delay in the second; how long it took, and the messages."""
    import deepspeed.comm.comm as deepspeed_comm

    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        config = small_config(2, sequences_per_step=1, stage=stage)
        trainer, _, sweeps = small_trainer(ranks, config)
        windows = small_windows(config)
        first = trainer.step(1, windows)
        last, engine, link = ranks.rank == 1, trainer._engine, None
        if what in ("receive", "send", "finish"):
            link = SlowLink(sweeps.transport._transport, clock, what)
            sweeps.transport._transport = link
        elif what == "reduction":
            early = engine._background is not None
            clock.delay(*(engine._background, "wait") if early else (engine._engine, "backward"))
        elif what == "gather":
            clock.delay(deepspeed_comm.cdb, "all_gather_into_tensor", monkeypatch)
        elif what == "write" and not last:
            clock.move()
        elif what == "tokens" and last:
            clock.delay(windows, "sequence")
        elif what == "chunk" and last:
            late_chunks(sweeps._reader, clock)
        elif what == "compute" and last:
            clock.delay(sweeps.runner, "backpropagate")
        elif what == "update" and last:
            engine._moments._adamw.register_step_pre_hook(lambda *_: clock.move())
        began = clock.now
        second = trainer.step(2, windows)
        return first, second, clock.now - began, 0 if link is None else link.count


CASES = [
    *((what, 1) for what in ("receive", "send", "finish", "tokens", "chunk", "compute", "update")),
    *(("reduction", stage) for stage in (0, 1, 2, 3)),
    *(("gather", stage) for stage in (1, 2, 3)),
    ("write", 1),
]


def all_cases(ranks):
    return {case: delayed(ranks, *case) for case in CASES}


@pytest.fixture(scope="module")
def ranks():
    return values(run_ranks(all_cases, 2))


def figures(ranks, what, stage=1):
    """The record of the step with a delay, the seconds it took each rank, and the messages of each."""
    results = [cases[what, stage] for cases in ranks]
    records = [second for _, second, _, _ in results]
    common = {key: value for key, value in records[0].items() if key != "between_seconds"}
    assert records[1].items() >= common.items()
    for first, *_ in results:
        for record in (first, records[0]):
            for key in ("data_seconds", "exposed_comm_seconds"):
                assert 0 <= record[key] <= record["step_seconds"]
            assert 0 <= record["bubble_fraction"] <= 1
    seconds = [seconds for _, _, seconds, _ in results]
    about(records[0]["step_seconds"], max(seconds))
    about(records[0]["tokens_per_second"], 44 / records[0]["step_seconds"])
    return records[0], seconds, [count for *_, count in results]


def about(found, expected):
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("what", ["receive", "send", "finish"])
def test_a_slow_link(ranks, what):
    record, _, messages = figures(ranks, what)
    assert min(messages) > 0
    about(record["exposed_comm_seconds"], DELAY * sum(messages) / 2)
    about(record["bubble_fraction"], 1)
    about(record["data_seconds"], 0)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_slow_reduction(ranks, stage):
    record, _, _ = figures(ranks, "reduction", stage)
    about(record["step_seconds"], DELAY)
    about(record["exposed_comm_seconds"], DELAY)
    about(record["bubble_fraction"], 0)
    about(record["data_seconds"], 0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_slow_gather_of_parameters(ranks, stage):
    record, _, _ = figures(ranks, "gather", stage)
    assert record["step_seconds"] >= DELAY
    about(record["exposed_comm_seconds"], record["step_seconds"])
    about(record["bubble_fraction"], 0)
    about(record["data_seconds"], 0)


@pytest.mark.parametrize("what", ["tokens", "chunk"])
def test_slow_data_of_one_rank(ranks, what):
    record, seconds, _ = figures(ranks, what)
    assert seconds[1] > DELAY
    about(record["data_seconds"], seconds[1])
    about(record["exposed_comm_seconds"], 0)
    about(record["bubble_fraction"], 0.5)  # the other one waits


@pytest.mark.parametrize("what", ["compute", "update"])
def test_a_slow_rank(ranks, what):
    record, seconds, _ = figures(ranks, what)
    assert seconds[1] > DELAY - 1
    about(record["data_seconds"], 0)
    about(record["exposed_comm_seconds"], 0)
    about(record["bubble_fraction"], 0.5)


def test_slow_records_are_no_part_of_a_step(ranks):
    record, _, _ = figures(ranks, "write")
    assert record["step_seconds"] < 1
    about(record["between_seconds"], DELAY)


def test_a_slow_record_of_rank_0_is_nobodys_wait():
    """With the clock of the machine: a second between two steps, in which rank 1 has nothing to do."""
    first, second = values(run_ranks(slow_writer, 2))
    for record in (first, second):
        assert record["between_seconds"] > 0.9 * SLEEP_SECONDS
        assert 0 <= record["exposed_comm_seconds"] <= record["step_seconds"]
        assert 0 <= record["bubble_fraction"] <= 1
    assert first["step_seconds"] == second["step_seconds"]


SLEEP_SECONDS = 1.5


def slow_writer(ranks):
    config = small_config(2, sequences_per_step=1)
    trainer, _, _ = small_trainer(ranks, config)
    trainer.step(1, small_windows(config))
    if ranks.rank == 0:
        time.sleep(SLEEP_SECONDS)
    return trainer.step(2, small_windows(config))


def rows_of(*ranks):
    """Rows of ranks: seconds, seconds held up by carries, seconds of the sweeps, tokens of work."""
    rows = []
    for seconds, starved, sweeps, work in ranks:
        held = Held(starved=starved)
        rows.append([seconds, *held, 1.0, sweeps, work, 0.0])
    return torch.tensor(rows, dtype=torch.float64)


def slowest(*ranks):
    found = step_figures(rows_of(*ranks), 100)
    return found.get("slowest_rank"), found.get("slowest_factor")


def test_what_does_not_grow_with_the_chunks_makes_no_rank_slow():
    """Rank 0 has two chunks and rank 1 has one; both need half a second for the optimizer."""
    assert slowest((2.5, 0, 2.0, 2), (2.5, 1.0, 2.0, 1)) == (0, pytest.approx(1.0))


def test_a_slow_rank_is_compared_with_the_others():
    assert slowest((2, 0, 1, 4), (2, 0, 2, 4)) == (1, pytest.approx(2.0))
    ranks = [(3, 0.5, 1.5, 4), (3, 0, 1, 4), (3, 0, 2.5, 4), (3, 0, 1, 4)]
    assert slowest(*ranks) == (2, pytest.approx(2.5))


def test_a_rank_without_work_is_not_compared():
    assert slowest((2, 0, 0.1, 0), (2, 0, 2, 4)) == (None, None)
    assert slowest((2, 0, 0.1, 0), (2, 0, 3, 4), (2, 0, 2, 4)) == (1, pytest.approx(1.5))
    assert slowest((2, 0, 2, 4)) == (None, None)
