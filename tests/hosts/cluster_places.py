"""Ports that are taken, jobs that share a host, folders that are not shared, checkouts at other paths."""

from tests.hosts import checkout as checkouts
from tests.hosts.jobs import start, wait_all
from tests.hosts.lab import Lab, poll, shell

TWO = "parallel.sequence=2"


def torchrun(rank, script="../checkout/launch/torchrun.sh", config="tiny.yaml", more=()):
    """The line for one of two hosts, one rank each."""
    variables = dict(NODES=2, NODE_RANK=rank, MASTER_ADDR="hosta", N=1)
    return shell("bash", script, config, TWO, *more, **variables)


def mpirun(*more, **variables):
    return shell(
        *("bash", "../checkout/launch/mpirun.sh", "tiny.yaml", TWO, *more),
        N=2,
        MPIRUN_ARGS="--allow-run-as-root --oversubscribe",
        **variables,
    )


def test_a_taken_port(site, pair, case):
    """One line says which port, at once, and the job ends on all ranks."""
    server = "import socket; s = socket.create_server(('', 31000)); print('listens', flush=True); "
    taken = start(
        pair["hosta"],
        shell("python3", "-c", server + "import time; time.sleep(600)"),
        site.new_folder("taken"),
    )
    poll(lambda: "listens" in taken.output(), "the port is taken")
    line = mpirun(f"run.name={case.run}", MASTER_PORT=31000)
    case.say(launcher="Open MPI, a taken port", hosts="1 x 2", command=line)
    done = start(pair["hosta"], line, site.work).wait()
    taken.end()
    assert done.code not in (0, 124)
    said = [text for text in done.output.splitlines() if "MASTER_PORT" in text and "rank 0" in text]
    assert said, done.output
    assert "Traceback" not in done.output
    case.say(result=f"exit code {done.code}, and: {said[0]}")


def test_two_jobs_on_one_host(site, pair, case):
    names = [f"{case.run}-{n}" for n in (1, 2)]
    lines = [mpirun(f"run.name={name}") for name in names]
    case.say(launcher="Open MPI, two jobs at once", hosts="1 x (2 + 2)", command=lines[0])
    done = wait_all([start(pair["hosta"], line, site.work) for line in lines])
    for job, name in zip(done, names, strict=True):
        case.check(job, name=name)


def test_a_run_folder_that_is_not_shared(site, case):
    """Rank 0's host holds the run; the other host's folder of the same name is another one."""
    folder = site.work / "runs"
    with Lab("hosta", "hostb") as lab:
        lab["hostb"].do(f"mount -t tmpfs tmpfs {folder}")
        lines = [torchrun(rank, more=[f"run.name={case.run}"]) for rank in (0, 1)]
        case.say(launcher="torchrun, runs not shared", hosts="2 x 1", command=lines[0])
        jobs = [start(lab[h], line, site.work) for h, line in zip(lab.hosts, lines, strict=True)]
        case.check(*wait_all(jobs))


def test_checkpoints_in_a_folder_that_is_not_shared(site, case):
    """Ranks write their own parts of a checkpoint: refused at once, with a line that names the folder."""
    folder = site.work / "runs"
    with Lab("hosta", "hostb") as lab:
        lab["hostb"].do(f"mount -t tmpfs tmpfs {folder}")
        more = [f"run.name={case.run}", "checkpoint.every=1"]
        lines = [torchrun(rank, more=more) for rank in (0, 1)]
        case.say(launcher="torchrun, checkpoints not shared", hosts="2 x 1", command=lines[0])
        jobs = [start(lab[h], line, site.work) for h, line in zip(lab.hosts, lines, strict=True)]
        done = wait_all(jobs)
    said = "which rank 0 made, is not seen here"
    for job in done:
        assert job.code == 1, job.output  # torchrun's
        assert said in job.output
    (line,) = {text for text in done[0].output.splitlines() if text.startswith("FAILED ")}
    case.say(result=line.replace(str(site.root), ".."))


def test_a_checkout_at_another_path(site, pair, case):
    """Each host has a checkout of its own, and starts from a folder of its own."""
    other = checkouts.make_checkout(site.root / "another" / "tttscale-2", open_mpi=False)
    folder = site.new_folder("elsewhere")
    (folder / "mine.yaml").write_text((site.work / "tiny.yaml").read_text())
    more = [f"run.name={case.run}", f"data.store={site.work}/store", f"run.dir={site.work}/runs"]
    one = torchrun(0, more=more)
    two = torchrun(1, other / "launch/torchrun.sh", "mine.yaml", more)
    case.say(launcher="torchrun, checkouts at other paths", hosts="2 x 1")
    case.say(command=one.replace(str(site.root), ".."))
    jobs = [start(pair["hosta"], one, site.work), start(pair["hostb"], two, folder)]
    case.check(*wait_all(jobs))
