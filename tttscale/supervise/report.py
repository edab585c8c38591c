"""What a supervisor says and writes about a failure, and the end of its rank."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tttscale import codes
from tttscale.cluster.ranks import Ranks
from tttscale.cluster.torchelastic import tell_torchrun
from tttscale.files import write_text
from tttscale.scrub import scrubbed
from tttscale.supervise import failure
from tttscale.supervise.aside import written_in_time
from tttscale.supervise.ending import is_interrupted
from tttscale.supervise.rank import Rank
from tttscale.supervise.stacks import stacks_file
from tttscale.supervise.verdict import Verdict

_MISTAKES = {codes.USAGE.number, codes.DATA.number, codes.CHECKPOINT.number, codes.LOOP.number}
"""A start that is refused for one of these changes nothing in the run's folder, before its first step."""


_DISK_SECONDS = 2.0
_RANK_0_FIRST_SECONDS = 1.0
"""How long other ranks leave `failure.json` to rank 0, whose host may be gone."""
_LONGEST_SHOWN = 8000
"""Characters of stacks on stderr."""


class Report:
    """The words of one supervisor."""

    def __init__(self, rank: Rank, ranks: Ranks, environ: Mapping[str, str]) -> None:
        self._rank, self._ranks, self._environ = rank, ranks, environ
        self._began = time.time()

    def fail(self, verdict: Verdict) -> int:
        """End the rank by a verdict: its stacks if they matter, then its death, the line, and the files.

        Returns:
            The verdict's exit code.
        """
        is_own = verdict.rank == self._ranks.rank
        status = self._rank.status()
        if is_own or verdict.exit_code == codes.HANG.number:
            self._rank.ask_stacks()
        self._rank.kill()
        line = scrubbed(verdict.line())
        if is_own and status is not None and self._ranks.world_size > 1:
            self._say_error()
        self._save_stacks(line, shown=is_own)
        self.say(line)
        if not is_own or not self._rank.page.text("cause"):
            tell_torchrun(line)
        self._write(verdict)
        return verdict.exit_code

    def stacks(self, why: str) -> None:
        """Write the stacks of a rank that runs."""
        self._rank.ask_stacks()
        self._save_stacks(why, shown=True)

    def say(self, text: str) -> None:
        """Print a line on stderr, if anybody reads it."""
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    def _say_error(self) -> None:
        """Print what the rank has left to be printed if it was the first to fail (`tttscale.cli`)."""
        if cause := self._rank.page.text("cause"):
            who = f"[rank {self._ranks.rank}] " if self._ranks.rank else ""
            self.say(f"{who}error: {scrubbed(cause)}")

    def _save_stacks(self, why: str, shown: bool) -> None:
        stacks, rank, folder = self._rank.stacks, self._ranks.rank, self._folder()
        text = stacks.text()
        if not text:
            return
        head = f"Stacks of all threads of rank {rank}, the innermost call first. {why}"
        problem = "the run has no folder"
        if folder is not None:
            problem = written_in_time(
                lambda: write_text(stacks_file(folder, rank), f"{head}\n\n{text}"), _DISK_SECONDS
            )
        if problem:  # they are nowhere else
            self.say(f"{head}\n{text[-_LONGEST_SHOWN:]}")
        elif shown:
            frames = "".join(f"\n  {frame}" for frame in stacks.innermost())
            place = stacks_file(folder, rank) if folder is not None else ""
            self.say(f"rank {rank} stood here (all its threads: {place}):{frames}")

    def _write(self, verdict: Verdict) -> None:
        """Write `failure.json`: rank 0, and every other one that does not find it, with the same words."""
        refused = verdict.exit_code in _MISTAKES and verdict.step == 0
        folder = self._folder()
        if folder is None or refused or is_interrupted(verdict.exit_code):
            return
        if problem := written_in_time(lambda: self._write_to(folder, verdict), _DISK_SECONDS):
            self.say(f"{folder / failure.FAILURE} cannot be written: {problem}")

    def _write_to(self, folder: Path, verdict: Verdict) -> None:
        first = time.monotonic() + _RANK_0_FIRST_SECONDS * (self._ranks.rank > 0)
        while time.monotonic() < first:
            if failure.is_newer(folder, self._began):
                return
            time.sleep(0.05)
        files = sorted(stacks_file(folder, rank) for rank in range(self._ranks.world_size))
        stacks = [path.name for path in files if failure.is_newer_file(path, self._began)]
        failure.write(folder, failure.record(verdict, self._ranks, self._environ, stacks))

    def _folder(self) -> Path | None:
        text = self._rank.page.text("folder")
        return Path(text) if text else None
