"""The plan beside a run: its line, its check of memory on all ranks, and what came of it."""

import time
from typing import Any

import pytest
import torch

from tests.plan.test_flops import Undecided
from tests.plan.test_rates import config_of
from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.comm.mesh import Mesh
from tttscale.errors import LaunchError
from tttscale.plan.costs import assumed
from tttscale.scan.transport import SingleRank
from tttscale.train import run_plan
from tttscale.train.run_plan import Room, RunPlan

CPU, GIB = torch.device("cpu"), 2**30
ALONE = Mesh(0, 1, 1, SingleRank())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plan_of(room=None, mesh=ALONE, **changes):
    changes = {"train__precision": "fp32", "parallel__keep_chunks": 1} | changes
    return RunPlan(config_of(**changes), mesh, CPU, 1, room or Room(GIB // 2, 8 * GIB))


def test_the_line_without_costs():
    line = plan_of().line()
    assert line.startswith(
        "plan: step time unknown (no costs.json of this model, and no known GPU)"
    )
    assert "peak memory " in line
    assert "8.50GiB are there" in line


def test_the_line_with_costs_of_this_model(tmp_path):
    costs = assumed("cpu", config_of(train__precision="fp32"))
    (tmp_path / "costs.json").write_text(costs.to_json())
    assert " s a step by assumed costs; peak memory " in plan_of().line()


WHOLE: dict[str, Any] = {"parallel__chunk_length": 2**18, "data__sequence_length": 2**20}


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", b"[1]", b'{"layers": 3}', b"{\n\nx"])
def test_bad_costs_are_said_in_one_line_and_leave_the_check_of_memory(tmp_path, content):
    (tmp_path / "costs.json").write_bytes(content)
    line = plan_of().line()
    assert line.startswith("plan: step time unknown (costs.json is not used: ")
    assert "peak memory " in line
    assert "\n" not in line
    with pytest.raises(LaunchError, match="The smallest change that fits"):
        plan_of(Room(GIB // 2, GIB), **WHOLE).check()


def test_a_fault_in_the_time_leaves_the_check_of_memory(monkeypatch, tmp_path):
    costs = assumed("cpu", config_of(train__precision="fp32"))
    (tmp_path / "costs.json").write_text(costs.to_json())

    def fail(*_, **__):
        raise RuntimeError("no such\nline")

    monkeypatch.setattr(run_plan.Model, "price", fail)
    plan = plan_of(Room(GIB // 2, GIB), **WHOLE)
    assert "step time unknown (it failed: RuntimeError: no such line); peak memory" in plan.line()
    with pytest.raises(LaunchError, match="is predicted to need"):
        plan.check()


def test_assumptions_that_fail_leave_the_check_of_memory(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(run_plan, "assumed", fail)
    with pytest.raises(LaunchError, match="is predicted to need"):
        plan_of(Room(GIB // 2, GIB), **WHOLE).check()


def test_too_little_memory_is_refused_with_the_smallest_change():
    plan = plan_of(Room(GIB // 2, GIB), **WHOLE)
    with pytest.raises(LaunchError) as caught:
        plan.check()
    text = str(caught.value)
    assert "rank 0 is predicted to need" in text
    assert "1.00GiB free" in text
    assert "The smallest change that fits: parallel.chunk_length=" in text
    assert "train.ignore_memory=true" in text
    warning = plan_of(Room(GIB // 2, GIB), train__ignore_memory=True, **WHOLE).check()
    assert warning is not None
    assert warning.startswith("WARNING: memory: rank 0")
    with pytest.raises(LaunchError, match="would fit"):
        plan_of(Room(1, 1), **WHOLE).check()


def test_enough_memory_is_no_news():
    assert plan_of().check() is None


def short_on_one_rank(ranks):
    config = config_of(parallel__sequence=2, parallel__keep_chunks=1, train__precision="fp32")
    mesh = meshes.start(ranks, 2, CPU)
    room = Room(1, 8 * GIB if ranks.rank == 0 else 1)
    try:
        RunPlan(config, mesh, CPU, 2, room).check()
    except LaunchError as error:
        return str(error)
    return None


def test_all_ranks_refuse_if_one_is_short():
    first, second = values(run_ranks(short_on_one_rank, 2))
    assert first is not None
    assert second is not None
    assert first.startswith("memory: rank 1 is predicted to need")


def test_a_layer_that_cannot_be_measured_is_said_and_ends_nothing():
    assert Undecided
    plan = plan_of(Room(GIB, 1), model__pattern=["undecided"])
    assert "peak memory unknown (undecided: cannot be measured" in plan.line()
    assert plan.check() is None


def test_a_fault_of_the_plan_ends_nothing(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(run_plan, "choice_of", fail)
    plan = plan_of(Room(GIB, 1))
    assert plan.line() == "plan: none, as it failed (RuntimeError: broken)"
    assert plan.check() is None
    record = {"step_seconds": 1.0, "peak_memory_bytes": GIB}
    assert [plan.compared(record, 1) for _ in range(4)] == [None] * 4


def test_what_came_of_it_is_said_once(tmp_path):
    costs = assumed("cpu", config_of(train__precision="fp32"))
    (tmp_path / "costs.json").write_text(costs.to_json())
    plan = plan_of()
    record = {"step_seconds": 2.0, "peak_memory_bytes": GIB // 2}
    first, second, third, fourth = (plan.compared(record, 1) for _ in range(4))
    assert (first, second, fourth) == (None, None, None)
    assert third is not None
    assert third.startswith("plan after 3 steps: ")
    assert "2 s measured (" in third
    assert "512MiB measured (" in third


def test_a_copy_for_checkpoints_is_counted_and_refuses_no_run():
    """Without room for it the step waits for its checkpoint."""
    large: dict[str, Any] = {"model__vocab_size": 300_000, "parallel__chunk_length": 16}
    saves = {**large, "checkpoint__every": 2}
    with_it, without = (plan_of(**keys)._found.memory for keys in (saves, large))
    assert with_it.peak - without.peak == with_it.checkpoint_copy > 0.1 * without.peak
    room = Room(0, without.peak)
    assert plan_of(room, **saves).check() is None
    with pytest.raises(LaunchError):
        plan_of(Room(0, round(0.85 * without.peak)), **saves).check()


def test_a_copy_that_is_not_made_yet_is_not_compared():
    texts = {}
    for first, every in ((1, 100), (1, 2), (99, 100)):
        plan = plan_of(checkpoint__every=every, model__vocab_size=300_000)
        peak = plan._found.memory.peak
        steps = [
            {"step": first + i, "step_seconds": 1.0, "peak_memory_bytes": peak} for i in range(3)
        ]
        texts[first, every] = [plan.compared(record, 1) for record in steps][-1]
    assert "(1.00 of it)" in texts[1, 2]
    assert "(1.00 of it)" in texts[99, 100]
    assert "(1.00 of it)" not in texts[1, 100]


def test_it_costs_little():
    plan_of()
    began = time.process_time()
    plan_of(data__sequence_length=2**20)
    assert time.process_time() - began < 0.3


def test_room_is_what_the_system_says():
    room = Room.of(CPU, 4)
    assert 50 * 2**20 < room.taken < 64 * GIB
    assert room.free > 0
