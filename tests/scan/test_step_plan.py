"""What is read and recomputed in a step, in which order."""

from tttscale.scan.keep_policy import backward_order, split_kept
from tttscale.scan.schedule import ChunkTask, Phase
from tttscale.scan.step_plan import StepPlan


def test_recomputed_are_those_that_are_not_kept_from_the_last_on():
    tasks = tuple(ChunkTask(Phase.FORWARD, 0, chunk, range(3)) for chunk in range(4))
    plan = StepPlan(True, tasks, frozenset(tasks[2:]))
    assert [t.chunk for t in plan.reads()] == [0, 1, 2, 3, 1, 0]
    evaluation = StepPlan(False, tasks, frozenset())
    assert [t.chunk for t in evaluation.reads()] == [0, 1, 2, 3]


def test_layers_that_are_not_kept_are_recomputed_before_the_kept_ones_go_back():
    """If a chunk is kept in part; else the gradients' wave would wait for them."""
    tasks = [ChunkTask(Phase.FORWARD, 0, chunk, range(4)) for chunk in (0, 2, 4)]
    cut, kept = split_kept(tasks, 6)
    plan = StepPlan(True, cut, kept)
    found = [
        (str(run), task.chunk, task.layers) for run, task in backward_order(plan.tasks, plan.kept)
    ]
    assert found == [
        ("backward", 4, range(4)),
        ("recompute", 2, range(2)),
        ("backward", 2, range(2, 4)),
        ("backward", 2, range(2)),
        ("recompute", 0, range(4)),
        ("backward", 0, range(4)),
    ]
    read = [task.layers for task in plan.reads()][len(cut) :]
    assert read == [layers for run, _, layers in found if run == "recompute"]
    assert list(backward_order((), frozenset())) == []
