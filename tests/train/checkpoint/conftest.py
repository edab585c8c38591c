"""A folder with two checkpoints."""

import pytest

from tests.train.checkpoint.test_folder import write
from tests.train.small import small_config
from tttscale.train.checkpoint.folder import CheckpointFolder


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 1 and 2."""
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (1, 2):
        write(folder, step)
    return folder


@pytest.fixture
def small():
    """A small run's configuration."""
    return small_config()
