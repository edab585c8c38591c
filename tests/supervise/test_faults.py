"""The short form of `tests.campaigns.faults`: real jobs with a fault of each kind; and how it grades."""

import importlib
import json
import socket
from dataclasses import replace

import pytest

from tests.campaigns.fault_episodes import LAUNCHERS, NEEDS_SPACE, Episode, episodes
from tests.campaigns.fault_grades import Result, grade_again, grade_end, leftovers
from tests.campaigns.fault_hook import PLACES
from tests.campaigns.fault_jobs import Ended
from tests.campaigns.faults import Campaign

PATIENCE = 6.0
"""No test is timed: the machine may have other work."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The folder, and an undisturbed run of three ranks."""
    made = Campaign(tmp_path_factory.mktemp("faults"), PATIENCE)
    made.undisturbed(3)
    return made


def right(campaign, *words, **options):
    """Run an episode and require that all is right."""
    number = len(list(campaign.folder.glob("episode-*")))
    result = campaign.run(Episode(*words, **options, number=number))
    assert result.wrong == {}, f"{result.wrong}\n{result.said}"
    return result


def test_a_killed_rank(campaign):
    done = right(campaign, "kill", "backward", 3, (1,))
    assert done.lost is not None


def test_a_rank_that_is_killed_before_ranks_have_met(campaign):
    right(campaign, "kill", "start-up", 2, (1,), resumes=False)


def test_a_rank_whose_supervisor_is_killed(campaign):
    right(campaign, "kill supervisor", "reduction", 2, (1,), resumes=False)


def test_the_first_rank_and_its_supervisor_are_killed(campaign):
    right(campaign, "kill both", "checkpoint", 2, (0,), resumes=False)


def test_a_stopped_rank(campaign):
    right(campaign, "stop", "advance", 2, (1,), resumes=False)


def test_a_rank_in_a_library_that_holds_pythons_lock(campaign):
    right(campaign, "lock", "optimizer", 3, (0,))


def test_a_rank_with_an_error_that_is_not_foreseen(campaign):
    right(campaign, "raise", "set-up", 2, (1,), resumes=False)


def test_a_full_disk(campaign):
    right(campaign, "metrics full", "records", 3, (0,))


def test_a_launcher_is_killed(campaign):
    """Nobody is left who could end the ranks."""
    right(campaign, "kill launcher", "wait", 2, (0,), "torchrun", resumes=False)


# ---- the campaign itself ------------------------------------------------------------------------


@pytest.mark.parametrize("at", PLACES)
def test_every_place_is_there(at):
    found = [reachable(*target) for target in PLACES[at].targets]
    assert not found or any(found)


def reachable(module, attribute):
    owner = importlib.import_module(module)
    for name in attribute.split("."):
        owner = getattr(owner, name, None)
    return owner is not None


def test_every_fault_place_launcher_and_number_of_ranks_has_its_episodes():
    found = episodes(0, LAUNCHERS)
    assert {e.at for e in found} == set(PLACES)
    assert {e.launcher for e in found} == set(LAUNCHERS)
    assert {e.ranks for e in found} == {2, 3, 4, 8, 16}
    assert {"kill", "stop", "loop", "lock", "raise", *NEEDS_SPACE} <= {e.fault for e in found}
    assert len({e.name for e in found}) == len(found) == len({e.number for e in found})
    assert [e.name for e in found] == [e.name for e in episodes(0, LAUNCHERS)]
    assert [e.name for e in found] != [e.name for e in episodes(1, LAUNCHERS)]


STOPPED = Episode("stop", "advance", 2, (1,))
LINE = (
    f"FAILED rank=1 host={socket.gethostname()} phase=step step=4 cause=stopped (SIGSTOP) for 3 s"
)
NOTES = {1: {"monotonic": 100.0, "time": 0.0}}


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has ended as it should."""
    (tmp_path / "stacks-rank-1.txt").write_text("in stand_still")
    fields = {"rank": 1, "exit_code": 72, "cause": "stopped (SIGSTOP) for 3 s"}
    (tmp_path / "failure.json").write_text(json.dumps(fields))
    return tmp_path


def graded(run, notes=NOTES, codes=(72, 72), texts=(LINE, LINE), at=107.0, orphans=()):
    result = Result(STOPPED)
    grade_end(result, Ended(list(codes), list(texts), at, list(orphans)), notes, run, 1.0)
    return set(result.wrong)


def test_an_end_that_is_right(run):
    assert graded(run) == set()


def other(old, new):
    assert old in LINE
    return (LINE.replace(old, new),) * 2


@pytest.mark.parametrize(
    ("wrong", "grade"),
    [
        ({"notes": {}}, "fired"),
        ({"at": 108.1}, "seconds"),
        ({"orphans": ["1 python"]}, "leftovers"),
        ({"codes": (72, 71)}, "code"),
        ({"codes": (72, None)}, "code"),
        ({"texts": (LINE, "")}, "culprit"),
        ({"texts": (LINE, f"{LINE}\n{LINE}")}, "culprit"),
        ({"texts": (f"{LINE}\n{LINE}", "")}, "culprit"),
        ({"texts": (LINE, LINE.replace("for 3 s", "for 4 s"))}, "culprit"),
        ({"texts": other("rank=1", "rank=0")}, "culprit"),
        ({"texts": other("phase=step", "phase=set-up")}, "culprit"),
        ({"texts": other("step=4", "step=3")}, "culprit"),
        ({"texts": other("host=", "host=not-")}, "culprit"),
        ({"texts": other("stopped", "slow")}, "culprit"),
    ],
)
def test_an_end_that_is_wrong(run, wrong, grade):
    assert grade in graded(run, **wrong)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stacks-rank-1.txt", "somewhere else"),
        ("failure.json", '{"rank": 1'),
        ("failure.json", '{"rank": 0, "exit_code": 72, "cause": "stopped (SIGSTOP)"}'),
        ("failure.json", '{"rank": 1, "exit_code": 71, "cause": "stopped (SIGSTOP)"}'),
        ("failure.json", '{"rank": 1, "exit_code": 72, "cause": "slow"}'),
    ],
)
def test_records_that_are_wrong(run, name, text):
    (run / name).write_text(text)
    assert graded(run) == {"records"}


def test_records_that_are_missing(run):
    (run / "failure.json").unlink()
    assert graded(run) == {"records"}


@pytest.mark.parametrize("name", ["a.partial-1", "b.tmp", "failure.json"])
def test_files_that_are_left(run, name):
    (run / "failure.json").unlink()
    assert leftovers(run) == []
    (run / name).write_text("{}")
    assert leftovers(run) == [name]


def test_a_run_that_does_not_resume_to_the_same_bits(campaign, tmp_path):
    campaign.undisturbed(3, name="twin")
    for name, wrong in (("twin", set()), ("other", {"same"})):
        if name == "other":
            change_last_loss(campaign.folder / "runs/twin", campaign.folder / "runs/other")
        result = Result(replace(STOPPED, ranks=3))
        grade_again(result, Ended([0, 0, 0], [""] * 3, 0.0), campaign.folder, name)
        assert set(result.wrong) == wrong
    grade_again(result, Ended([0, 0, 71], [""] * 3, 0.0), campaign.folder, "twin")
    assert "same" in result.wrong


def change_last_loss(run, to):
    run.rename(to)
    *lines, last = (to / "metrics.jsonl").read_text().splitlines()
    record = json.loads(last)
    record["loss"] += 1e-12
    (to / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(record), ""]))
