"""Whether checkpoints will fit is found out before the first step."""

from types import SimpleNamespace

import pytest

from tests.ranks import run_ranks, values
from tests.train.checkpoint.test_manager import checkpoints_of, light
from tests.train.small import small_trainer
from tttscale.errors import CheckpointError
from tttscale.train.checkpoint import disk_room


def little_room(ranks, folder):
    from tttscale.train.checkpoint.folder import CheckpointFolder

    config = light(2)
    kept = config.checkpoint.model_copy(update={"every": 1, "keep": 2})
    trainer, _, _ = small_trainer(ranks, config)
    checkpoints = checkpoints_of(config.model_copy(update={"checkpoint": kept}), trainer, folder)
    checkpoints.check_folder()
    free = 3 * 12 * 1000 if ranks.rank == 0 else 0  # rank 0 is asked
    disk_room.shutil.disk_usage = lambda path: SimpleNamespace(free=free)
    checkpoints.check_room(1000, 0)
    with pytest.raises(
        CheckpointError, match=r"rank 0: checkpoint\.keep = 2: 3 more .* do not fit"
    ):
        checkpoints.check_room(1001, 0)
    with pytest.raises(CheckpointError, match=r"2 more .* do not fit"):
        checkpoints.check_room(1501, 3)
    checkpoints.check_room(1500, 3)  # steps 4 and 5
    checkpoints.check_room(10**9, 5)  # nothing is left to be saved
    CheckpointFolder.steps = lambda self: [1, 2, 3, 4]  # those that keep is too small for will go
    checkpoints.check_room(3000, 0)


def test_too_little_room_is_said_before_the_first_step(tmp_path):
    values(run_ranks(little_room, 2, str(tmp_path)))
