import pytest

from tttscale.cluster import discover_place
from tttscale.data.crew import Crew


def count(job, step, counters):
    counters.add(1, step, job)
    return job * step


@pytest.mark.parametrize("jobs", [0, 1, 3])
def test_a_crew_works_on_after_its_pool_and_counts_on(jobs):
    """A rank may have files for all its workers, and then one shard to write or none."""
    crew = Crew(discover_place({}), workers=2)
    assert crew.share(count, [1, 2, 3], 10) == [10, 20, 30]
    assert crew.share(count, list(range(jobs)), 100) == [100 * job for job in range(jobs)]
    assert crew.counters.read() == (3 + jobs, 30 + 100 * jobs, 6 + sum(range(jobs)))
