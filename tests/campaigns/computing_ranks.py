"""Two ranks as real processes that really compute, over gloo; something is made slow on one of them."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.campaigns.sleeping_ranks import Fault, LateEdge, gathered
from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer
from tttscale.config.schema import Config
from tttscale.data import ArraySplit, Windows
from tttscale.observe.span_table import COMPUTE
from tttscale.observe.spans import Trace
from tttscale.scan.timeline import Activity

RANKS = 2
MINI_BATCH = 16
WARM_STEPS, STEPS = 2, 6
_MESSAGES = 1 << 14
SHARES = {"slow edge": 0.2, "slow data": 0.12, "slow records": 0.3}
"""Delays, as shares of a step with nothing slow."""


def compute(
    fault: Fault, *, chunks: int = 8, chunk_tokens: int = 1024, layers: int = 2
) -> tuple[Trace, float]:
    """Train some steps.

    Args:
        fault: its seconds are set here, from how long a step takes.
        chunks: of a sequence.
        chunk_tokens: of a chunk.
        layers: of the model.

    Returns:
        What both ranks did in the last steps, and by which share of its time the machine held up the rank
        that it held up most: how long it could have run and had no processor.
    """
    with tempfile.TemporaryDirectory() as folder:
        sent_at = Path(folder) / "sent_at"
        np.zeros((2, _MESSAGES)).tofile(sent_at)
        sizes = chunks, chunk_tokens, layers
        found = values(run_ranks(_rank, RANKS, fault, sizes, str(sent_at)))
    facts = {
        "sequence_ranks": RANKS,
        "chunks": chunks,
        "chunk_tokens": chunk_tokens,
        "sequence_tokens": chunks * chunk_tokens,
        "mini_batch_tokens": MINI_BATCH,
        "sequences": 1,
        "layers": layers,
        "layout": "striped",
    }
    held_up = max(share for _, share in found)
    return gathered("measured", [track for track, _ in found], facts), held_up


def _config(chunks: int, chunk_tokens: int, layers: int) -> Config:
    fields = small_config(sequence=RANKS, sequences_per_step=1, steps=100).model_dump()
    fields["model"] |= {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": layers,
        "mini_batch_size": MINI_BATCH,
        "initializer_range": 0.02,
    }
    fields["data"]["sequence_length"] = chunks * chunk_tokens
    fields["parallel"] |= {"chunk_length": chunk_tokens, "keep_chunks": 1}
    return Config.model_validate(fields)


def _rank(ranks, fault: Fault, sizes: tuple[int, int, int], sent_at: str):
    config = _config(*sizes)
    trainer, _, sweeps = small_trainer(ranks, config)
    length = config.data.sequence_length
    documents = [np.random.default_rng(7).integers(0, 23, 12 * length)]
    windows = Windows(ArraySplit(documents), length, 0, config.model.mini_batch_size)
    for step in range(1, WARM_STEPS + 1):
        usual = trainer.step(step, windows)["step_seconds"]
    fault = replace(fault, seconds=SHARES.get(fault.kind, 0.0) * usual)
    times = np.memmap(sent_at, float, "r+", shape=(2, _MESSAGES))
    sweeps.transport = LateEdge(sweeps.transport, fault, times)
    here, timeline = fault.rank == ranks.rank, sweeps.timeline
    if fault.kind == "slow rank" and here:
        stretch(timeline, fault.factor)
    if fault.kind == "slow data" and here:
        windows = SlowWindows(windows, fault.seconds)
    began = noted_begins(trainer)
    waited, at = _without_processor_seconds(), time.perf_counter()
    timeline.start_trace()
    for step in range(WARM_STEPS + 1, WARM_STEPS + STEPS + 1):
        trainer.step(step, windows)
        timeline.mark_step(step, began[-1], time.perf_counter())
        if fault.kind == "slow records" and here:
            timeline.begin(Activity.RECORD)
            time.sleep(fault.seconds)
            timeline.begin(Activity.OTHER)
    waited, seconds = _without_processor_seconds() - waited, time.perf_counter() - at
    return timeline.end_trace(), waited / seconds


def _without_processor_seconds() -> float:
    """How long this process's main thread has waited for a processor so far (Linux)."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def noted_begins(trainer):
    """A list that gets the time at which each of the trainer's steps begins on all ranks."""
    found, begin = [], trainer._begin

    def noting():
        result = begin()
        found.append(result[0])
        return result

    trainer._begin = noting
    return found


def stretch(timeline, factor: float) -> None:
    """Let every activity that computes take longer."""
    begin, now = timeline.begin, [None, 0.0]

    def stretched(activity, *args, **options):
        if now[0] in COMPUTE:
            time.sleep((factor - 1) * (time.perf_counter() - now[1]))
        begin(activity, *args, **options)
        now[:] = str(activity), time.perf_counter()

    timeline.begin = stretched


class SlowWindows:
    """Windows of which every read takes some time."""

    def __init__(self, windows, seconds: float) -> None:
        self._windows, self._seconds = windows, seconds

    def sequence(self, index):
        """A sequence that is read slowly."""
        return _SlowSequence(self._windows.sequence(index), self._seconds)


class _SlowSequence:
    def __init__(self, sequence, seconds: float) -> None:
        self._sequence, self._seconds = sequence, seconds

    def chunk(self, begin, end):
        time.sleep(self._seconds)
        return self._sequence.chunk(begin, end)
