"""A run as the simulator and the planner see it."""

import pytest

from tests.train.small import small_config
from tttscale.config.checks import problems_of
from tttscale.config.schema import Config
from tttscale.plan.carries import Carries
from tttscale.plan.costs import assumed
from tttscale.profile.advice import Setting, advise
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


@pytest.mark.parametrize(
    ("ranks", "tokens", "chunk", "kept"),
    [
        (2, 256, 64, 1),
        (4, 64, 16, 0),
        (2, 256, 16, 1),
        (4, 4096, 16, 0),
        (4, 4096, 512, 0),
    ],
)
@pytest.mark.parametrize("layout", ["striped", "contiguous"])
def test_whatever_is_advised_is_accepted(ranks, tokens, chunk, kept, layout):
    config = as_set(small_config(), Setting(chunk, layout, ranks, kept))
    data = config.data.model_copy(update={"sequence_length": tokens})
    config = config.model_copy(update={"data": data})
    assert not problems_of(config)
    shape, costs = Layout(layout, tokens, chunk, ranks, 1), assumed("cpu", config)
    job = job_of(config, shape, costs, ranks_per_host=8, gpu=False)
    found = advise(job, Setting(chunk, layout, ranks, kept))
    assert found
    for advice in found:
        values = config.model_dump()
        for pair in advice.key.split():
            key, value = pair.removeprefix("parallel.").split("=")
            values["parallel"][key] = value
        changed = Config.model_validate(values)
        assert problems_of(changed) == [], advice.key
        if "keep_chunks" in advice.key:
            parallel, chunks = changed.parallel, tokens // changed.parallel.chunk_length
            assert parallel.keep_chunks <= -(-chunks // parallel.sequence), advice.key
