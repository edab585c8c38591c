"""What keeps other jobs' ranks out: a value that all ranks have, and no message."""

import pytest

from tests.cluster.test_ranks import DEEPSPEED, MPIRUN, PALS, SRUN, TORCHRUN
from tttscale.cluster import discover
from tttscale.cluster.job_secret import job_secret
from tttscale.errors import LaunchError

GIVEN = {"TTTSCALE_JOB_SECRET": "correct horse battery"}


def secret(environ):
    return job_secret(environ, discover(environ))


def test_a_given_secret_wins_over_the_launchers_name_of_the_job():
    for environ in (MPIRUN, SRUN, TORCHRUN, {}):
        found = secret({**environ, **GIVEN})
        assert found.value == b"correct horse battery"
        assert found.variable == "TTTSCALE_JOB_SECRET"


def test_launchers_names_of_a_job_tell_jobs_apart():
    pals = {**PALS, "MASTER_ADDR": "x1", "PALS_APID": "7bca1e1b-9b4c"}
    elastic = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "4f9d"}
    jobs = [MPIRUN, SRUN, {**SRUN, "SLURM_STEP_ID": "1"}, pals, elastic, {}]
    found = [secret(job) for job in jobs]
    assert [s.variable for s in found] == [
        "PMIX_NAMESPACE",
        "SLURM_JOB_ID",
        "SLURM_JOB_ID",
        "PALS_APID",
        "TORCHELASTIC_RUN_ID",
        "",
    ]
    assert len({s.value for s in found}) == len(jobs)


def test_all_ranks_of_a_job_have_one():
    assert secret({**SRUN, "SLURM_PROCID": "0", "SLURM_NODEID": "0"}) == secret(SRUN)
    # pdsh takes no variable of Slurm to the other hosts of a deepspeed job.
    plain = {**DEEPSPEED, "RANK": "1"}
    assert secret(plain) == secret({**plain, "RANK": "0", "SLURM_JOB_ID": "1234"})


def test_only_who_knows_it_signs():
    one, other = secret(GIVEN), secret({"TTTSCALE_JOB_SECRET": "another value"})
    assert one.knows("rank 0", one.sign("rank 0"))
    assert not one.knows("rank 1", one.sign("rank 0"))
    assert not other.knows("rank 0", one.sign("rank 0"))
    for nonsense in ("", "0", "\N{SNOWMAN}"):
        assert not one.knows("rank 0", nonsense)


def test_no_text_shows_it():
    assert "horse" not in repr(secret(GIVEN))
    with pytest.raises(LaunchError, match="has 3 characters and needs at least 8") as error:
        secret({"TTTSCALE_JOB_SECRET": "abc"})
    assert "abc" not in str(error.value)
