"""A run as the simulator and the planner see it."""

from tests.train.small import small_config
from tttscale.plan.carries import Carries
from tttscale.plan.costs import assumed
from tttscale.profile.advice import Setting
from tttscale.profile.job import as_set, job_of
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey, Phase


def test_it_is_what_the_configuration_says():
    config = small_config(sequence=2)
    layout = Layout("striped", 44, 8, 2, 2)
    job = job_of(config, layout, assumed("h200", config), ranks_per_host=2, gpu=False)
    carries = Carries(config)
    key = CarryKey(Phase.FORWARD, 0, 0, 1, "state")
    assert job.parts == carries.parts
    assert job.alignment == config.alignment == 4
    assert job.carry_bytes(4)(key) == job.carry_bytes(8)(key) == carries.bytes(key)
    one, two = (job.peak_bytes(Setting(8, "striped", 2, kept)) for kept in (1, 3))
    assert one is not None
    assert two is not None
    assert 0 < one < two
    assert job.simulated(Setting(8, "striped", 2, 1)).seconds > 0


def test_a_setting_changes_what_it_names():
    config = small_config(sequence=2)
    other = as_set(config, Setting(4, "contiguous", 1, 0))
    assert (other.parallel.chunk_length, other.parallel.layout, other.parallel.sequence) == (
        4,
        "contiguous",
        1,
    )
    assert other.parallel.keep_chunks == config.parallel.keep_chunks
    assert config.parallel.chunk_length == 8
