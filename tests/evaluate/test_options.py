"""Words of the command line that are refused, and those that all ranks must have alike."""

import pytest

from tttscale.errors import ConfigError
from tttscale.evaluate.measure import Evaluation
from tttscale.evaluate.options import TASKS, Options, check_tasks


def test_every_task_can_be_measured():
    for task in TASKS:
        assert callable(getattr(Evaluation, f"_{task.replace('-', '_')}"))
    check_tasks(list(TASKS))


def test_an_unknown_task_lists_all():
    with pytest.raises(ConfigError) as refused:
        check_tasks(["loss", "nosuch"])
    assert "--task 'nosuch'" in str(refused.value)
    assert all(task in str(refused.value) for task in TASKS)


def test_what_ranks_agree_on():
    here, there = Options(store="/a", out="/b"), Options(store="/c", command="x")  # type: ignore[arg-type]
    assert here.agreed() == there.agreed()
    assert here.agreed() != Options(chunk=64).agreed()
