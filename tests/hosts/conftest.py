"""What the cases share: checkouts, a store, the losses of one process; and the report that a run writes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts import checkout as checkouts
from tests.hosts import report, run
from tests.hosts.jobs import Done
from tests.hosts.lab import Lab
from tests.hosts.slurm import Slurm, slurm
from tests.hosts.ssh import start_ssh


@dataclass(frozen=True)
class Site:
    """Folders that all hosts see."""

    root: Path
    checkout: Path
    """With Open MPI in its .venv."""
    work: Path
    """Where jobs are started: tiny.yaml, store, texts, runs."""

    def new_folder(self, name: str) -> Path:
        """Make a folder beside the others."""
        folder = self.root / name
        folder.mkdir()
        return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--out", type=Path, help="write a report to OUT.md")


def pytest_configure(config: pytest.Config) -> None:
    given = [str(word) for word in config.invocation_params.args]
    # tests/cluster.sh puts the files first, and then what it was called with.
    files = [n for n, word in enumerate(given) if word.startswith("tests/hosts/")]
    words = given[max(files, default=-1) + 1 :]
    config.pluginmanager.register(report.Collector(config.getoption("--out"), words))


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    where = os.environ.get("CLUSTER_FOLDER", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="tttscale-site-", dir=where) as made:
        root = Path(made)
        checkout = checkouts.make_checkout(root / "checkout")
        work = root / "work"
        work.mkdir()
        run.prepare(work, checkout)
        yield Site(root, checkout, work)


@pytest.fixture(scope="session")
def mpich(site: Site) -> Path:
    """A checkout with MPICH in its .venv."""
    checkout = checkouts.make_checkout(site.root / "checkout-mpich", open_mpi=False)
    return checkouts.add_mpich(checkout)


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """Two hosts that know each other, with sshd."""
    with Lab("hosta", "hostb") as lab:
        start_ssh(lab)
        yield lab


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A Slurm of two nodes."""
    with slurm() as running:
        yield running


@pytest.fixture
def case(
    site: Site, record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> "Case":
    return Case(site, record_property, request.node.name)


class Case:
    """One row of the report: what was run, and that its losses are those of one process."""

    def __init__(self, site: Site, note: Callable[[str, object], None], name: str) -> None:
        self._site, self._note = site, note
        self.run = "".join(c if c.isalnum() else "-" for c in name).strip("-")
        """The name of its run."""
        shutil.rmtree(site.work / "runs" / self.run, ignore_errors=True)

    def say(self, **facts: object) -> None:
        """Note columns of the report."""
        for name, value in facts.items():
            self._note(name, str(value))

    def check(self, *jobs: Done, name: str | None = None) -> None:
        """All jobs have ended well, and the run's losses are those of one process."""
        for job in jobs:
            job.passed()
        expected, found = (run.losses(self._site.work, n) for n in ("one", name or self.run))
        assert len(found) == run.STEPS
        assert found[0].hex() == expected[0].hex()
        assert found[1] == pytest.approx(
            expected[1], rel=1e-5
        )  # gradients are summed in another order
        self.say(result=f"loss of step 1 is that of one process to the last bit, {found[0]!r}")
