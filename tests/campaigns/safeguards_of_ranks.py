"""Safeguards by which a job notices what becomes of its ranks: see `tests.campaigns.safeguards`."""

from tests.campaigns.safeguard import Safeguard

_FAULTS = "tests/supervise/test_faults.py::"
_KILLED = (_FAULTS + "test_a_killed_rank",)
_STOPPED = (_FAULTS + "test_a_stopped_rank",)
_BEFORE = (_FAULTS + "test_a_rank_that_is_killed_before_ranks_have_met",)
_SUPERVISOR = (_FAULTS + "test_a_rank_whose_supervisor_is_killed",)
_FIRST = (_FAULTS + "test_the_first_rank_and_its_supervisor_are_killed",)
_RAISED = (_FAULTS + "test_a_rank_with_an_error_that_is_not_foreseen",)

SAFEGUARDS = (
    # ---- a rank and its supervisor -------------------------------------------------------------
    Safeguard(
        "a rank ends with its supervisor",
        "tttscale/supervise/child.py",
        "    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)\n",
        "",
        _SUPERVISOR,
    ),
    Safeguard(
        "a stopped or stuck rank is asked for its stacks",
        "tttscale/supervise/report.py",
        "        if is_own or verdict.exit_code == codes.HANG.number:\n"
        "            self._rank.ask_stacks()\n",
        "",
        _STOPPED,
    ),
    Safeguard(
        "a stopped rank is told from one that computes",
        "tttscale/supervise/signs.py",
        'cls(words[0] in (b"T", b"t"), ',
        "cls(False, ",
        _STOPPED,
    ),
    Safeguard(
        "a supervisor ends with its launcher",
        "tttscale/supervise/watch.py",
        "        return broken_link(self._links)\n",
        "        return None\n",
        (_FAULTS + "test_a_launcher_is_killed",),
    ),
    # ---- the supervisors of a job --------------------------------------------------------------
    Safeguard(
        "a cause is named before its consequences",
        "tttscale/supervise/judge.py",
        "    lightest = min(map(_weight, failed))\n",
        "    lightest = max(map(_weight, failed))\n",
        _KILLED,
    ),
    Safeguard(
        "the verdict is sent to all",
        "tttscale/supervise/hub.py",
        '            self._tell({"verdict": asdict(verdict)}, now)\n',
        "",
        _KILLED,
    ),
    Safeguard(
        "signs of life are sent",
        "tttscale/supervise/spoke.py",
        '        self._wire.send({"sign": sign.message()})\n',
        "        self._wire.send({})\n",
        _STOPPED,
    ),
    Safeguard(
        "a supervisor that is gone is missed",
        "tttscale/supervise/hub.py",
        "            self._court.lost(rank, at)\n",
        "            pass\n",
        _SUPERVISOR,
    ),
    Safeguard(
        "the first supervisor is missed, too",
        "tttscale/supervise/spoke.py",
        "                self._leave(Link.LOST)\n",
        "                self._leave(Link.OVER)\n",
        _FIRST,
    ),
    Safeguard(
        "there is a deadline",
        "tttscale/supervise/deadline.py",
        "    if rules.hang_seconds <= 0:\n",
        "    if rules.hang_seconds >= 0:\n",
        _STOPPED,
    ),
    # ---- what is said, and with which code -----------------------------------------------------
    Safeguard(
        "a killed rank has the exit code of a lost peer",
        "tttscale/supervise/ending.py",
        "        return codes.PEER.number\n",
        "        return codes.BUG.number\n",
        _KILLED,
    ),
    Safeguard(
        "a failure is written down",
        "tttscale/supervise/report.py",
        "        self._write(verdict)\n",
        "",
        _KILLED,
    ),
    Safeguard(
        "the failure of an earlier start is removed",
        "tttscale/supervise/attempts.py",
        "    (folder / FAILURE).unlink(missing_ok=True)\n",
        "    pass\n",
        _KILLED,
    ),
    Safeguard(
        "a rank says in which step it is",
        "tttscale/train/training_run.py",
        "            enter(Phase.STEP, step)\n",
        "            enter(Phase.STEP)\n",
        _KILLED,
    ),
    Safeguard(
        "a rank says why it ended",
        "tttscale/cli.py",
        '    tell_torchrun(what)\n    page.say("cause", what)\n',
        "    tell_torchrun(what)\n",
        _RAISED,
    ),
    Safeguard(
        "a full disk is no mistake in the configuration",
        "tttscale/errors.py",
        "    return (DiskError if of_disk(error) else ConfigError)(message)\n",
        "    return ConfigError(message)\n",
        (_FAULTS + "test_a_full_disk",),
    ),
)
