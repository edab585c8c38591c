"""Every module has a test file of its name in the folder that mirrors its own, or says here why not.

`tttscale/scan/carry.py` is tested by `tests/scan/test_carry.py`. The kernels are tested by what they compute:
see tests/kernels.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELSEWHERE = {  # a module without a test file of its own -> where it is tested, or why not
    "bench/companion_worker.py": "a process beside a measured one: bench/test_companions.py runs it",
    "bench/step_worker.py": "a rank's process: bench/test_step.py runs it",
    "config/arguments.py": "arguments only: each verb gives them",
    "config/section.py": "one base class without code: config/test_schema.py sees what it forbids",
    "data/builder/corpus.py": "declarations only",
    "data/builder/text_corpus.py": "what build_store reads: data/builder/test_store_builder.py",
    "data/store/protocols.py": "declarations only",
    "launch/cli.py": "words of commands: launch/test_slurm.py, launch/test_again.py, launch/test_status.py",
    "model/ports.py": "declarations, and a port that does nothing",
    "plan/gpus.py": "a table: plan/test_costs.py derives costs of every GPU in it",
    "plan/program.py": "plan/test_simulate.py runs it, by hand and in every shape",
    "plan/stand_in.py": "plan/test_rehearse.py runs it beside the simulator",
    "plan/virtual_time.py": "plan/test_rehearse.py: equal to the simulator's times",
    "plan/virtual_transport.py": "plan/test_rehearse.py: equal to the simulator's times",
    "supervise/first_side.py": "supervise/test_job.py drives it beside the others'",
    "supervise/other_side.py": "supervise/test_job.py drives it beside the first one",
    "supervise/seeker.py": "comm/test_seek_hub.py runs it",
    "supervise/member.py": "declarations: supervise/test_court.py fills them",
    "supervise/child.py": "supervise/test_supervisor.py forks it",
    "supervise/rank.py": "supervise/test_supervisor.py kills, stops and asks real ones",
    "supervise/report.py": "supervise/test_supervisor.py reads what it says and writes",
    "supervise/verdict.py": "two declarations: supervise/test_judge.py and others make them",
    "supervise/watch.py": "supervise/test_supervisor.py: what a supervisor does with real ranks",
    "verbs.py": "flags only: test_cli.py, and each verb in the tests of its room",
    "watch/cli.py": "flags only: watch/test_main.py gives them",
    "train/main.py": "the door from the command to a run: test_cli.py, train/test_run.py",
}


def modules(package):
    """Modules that may need a test: not packages' own files, nor what is behind a link."""
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        behind_a_link = any((package / parent).is_symlink() for parent in inside.parents)
        if path.name not in ("__init__.py", "__main__.py") and not behind_a_link:
            yield inside


def problems(package, tests, elsewhere):
    """What does not agree: modules without a test, and entries that are no longer true."""
    found = list(modules(package))
    own = {
        path.as_posix(): (tests / path.with_name(f"test_{path.name}")).is_file() for path in found
    }
    for name, is_tested in own.items():
        where = Path("tests") / Path(name).with_name(f"test_{Path(name).name}")
        if not is_tested and name not in elsewhere:
            yield f"{name} needs {where}, or a word in ELSEWHERE that says where it is tested"
        if is_tested and name in elsewhere:
            yield f"{name} has {where}: take it out of ELSEWHERE"
    for name, words in elsewhere.items():
        if name not in own:
            yield f"{name} is gone: take it out of ELSEWHERE"
        named = [word.strip(",:") for word in words.split() if word.strip(",:").endswith(".py")]
        yield from (f"{name}: no {test}" for test in named if not (tests / test).is_file())


def test_every_module_has_its_tests():
    assert list(problems(ROOT / "tttscale", ROOT / "tests", ELSEWHERE)) == []


def test_the_table_stays_short():
    assert len(ELSEWHERE) < 45


@pytest.fixture
def tree(tmp_path):
    for name in ("p/room/a.py", "p/room/b.py", "p/__init__.py", "tests/room/test_a.py", "k/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "p/linked").symlink_to("../k")
    return tmp_path / "p", tmp_path / "tests"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"room/b.py": "declarations"}, []),
        ({"room/b.py": "room/test_a.py runs it"}, []),
        ({}, ["room/b.py needs tests/room/test_b.py, or a word in ELSEWHERE"]),
        ({"room/a.py": "", "room/b.py": ""}, ["room/a.py has tests/room/test_a.py: take it out"]),
        ({"room/b.py": "", "room/c.py": ""}, ["room/c.py is gone: take it out"]),
        ({"room/b.py": "room/test_gone.py runs it"}, ["room/b.py: no room/test_gone.py"]),
    ],
)
def test_what_does_not_agree_is_named(tree, table, said):
    found = list(problems(*tree, table))
    assert len(found) == len(said)
    for problem, words in zip(found, said, strict=True):
        assert problem.startswith(words)
