"""A job for Slurm: its times, what a directive may hold, what sbatch says."""

import pytest

from tttscale.cluster.slurm import limit_seconds
from tttscale.errors import ConfigError


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:00:01", 3601), ("2-12", 216000), ("1-00:00:01", 86401)],
)
def test_times_of_slurm(time, seconds):
    assert limit_seconds(time) == seconds


@pytest.mark.parametrize("time", ["", "1h", "1:2:3:4", "-5", "1-", "1-2:", "１"])
def test_what_is_no_time_of_slurm(time):
    with pytest.raises(ConfigError):
        limit_seconds(time)
