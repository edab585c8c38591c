"""sbatch and srun on a real Slurm of two nodes."""

import json

from tests.hosts import run as runs
from tests.hosts.lab import shell

PLACE = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=5")
NO_GPU = "--gpus-per-node=0"


def words(site, case, *more):
    """CONFIG and what a job started from the checkout, as slurm.sbatch is, has to be told of the folders."""
    return (
        "../work/tiny.yaml",
        *(f"run.name={case.run}", "run.dir=../work/runs", "data.store=../work/store", *more),
    )


def log(site, job):
    return (site.checkout / f"tttscale-{job}.log").read_text()


def test_sbatch(site, cluster, case):
    line = shell("sbatch", *PLACE, NO_GPU, "launch/slurm.sbatch", *words(site, case))
    case.say(launcher="Slurm, sbatch", hosts="2 x 2", command=line)
    job = cluster.submit(line, site.checkout)
    assert cluster.wait(job) == "COMPLETED", log(site, job)
    case.check()


def test_srun(site, cluster, case):
    line = shell(
        *("srun", *PLACE, ".venv/bin/python", "-m", "tttscale", "train", *words(site, case)),
        OMP_NUM_THREADS=1,
    )
    case.say(launcher="Slurm, srun", hosts="2 x 2", command=line)
    case.check(cluster.run(line, site.checkout))


def test_two_jobs_share_the_nodes(site, cluster, case):
    place = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=5", NO_GPU)
    names = [f"{case.run}-{n}" for n in (1, 2)]
    lines = [
        shell(
            *("sbatch", *place, "launch/slurm.sbatch"),
            *words(site, case, "parallel.sequence=2", f"run.name={name}"),
        )
        for name in names
    ]
    case.say(launcher="Slurm, two jobs at once", hosts="2 x (1 + 1)", command=lines[0])
    jobs = [cluster.submit(line, site.checkout) for line in lines]
    for job, name in zip(jobs, names, strict=True):
        assert cluster.wait(job) == "COMPLETED", log(site, job)
        case.check(name=name)


def test_an_evaluation(site, cluster, case):
    """Ranks of two nodes measure a model together: every number is that of one process."""
    options = ("--split", "train", "--length", "512", "--chunk", "64")
    words = ("../work/runs/one", "--store", "../work/store", *options)
    line = shell(
        *("sbatch", *PLACE, NO_GPU, "launch/slurm.sbatch", *words, "--out", "../work/measured"),
        VERB="eval",
    )
    case.say(launcher="Slurm, tttscale eval", hosts="2 x 2", command=line)
    job = cluster.submit(line, site.checkout)
    assert cluster.wait(job) == "COMPLETED", log(site, job)
    alone = ("eval", "runs/one", "--store", "store", *options, "--out", "alone")
    runs.here(site.checkout, site.work, *alone)
    found, expected = (
        json.loads((site.work / name / "eval.json").read_text())["tasks"]["loss"]
        for name in ("measured", "alone")
    )
    assert (found.pop("ranks"), expected.pop("ranks")) == (4, 1)
    same = {key: value for key, value in expected.items() if key not in ("command", "text")}
    assert {key: found[key] for key in same} == same
    case.say(result=f"loss {found['loss']!r} and every other number are those of one process")
