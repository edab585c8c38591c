"""sbatch and srun on a real Slurm of two nodes."""

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
