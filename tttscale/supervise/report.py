"""What a supervisor says and writes about a failure, and the end of its rank."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tttscale import codes
from tttscale.cluster.ranks import Ranks
from tttscale.cluster.torchelastic import tell_torchrun
from tttscale.scrub import scrubbed
from tttscale.supervise import failure
from tttscale.supervise.ending import is_interrupted
from tttscale.supervise.rank import Rank
from tttscale.supervise.verdict import Verdict

_MISTAKES = {codes.USAGE.number, codes.DATA.number, codes.CHECKPOINT.number, codes.LOOP.number}
"""A start that is refused for one of these changes nothing in the run's folder, before its first step."""


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
        stacks, rank = self._rank.stacks, self._ranks.rank
        if not stacks.text():
            return
        head = f"Stacks of all threads of rank {rank}, the innermost call first. {why}"
        place = "no file: the run has no folder yet"
        try:
            if (folder := self._folder()) is not None:
                place = str(stacks.save(folder, rank, head))
        except OSError as error:
            place = f"no file: {error}"
        if shown:
            frames = "".join(f"\n  {frame}" for frame in stacks.innermost())
            self.say(f"rank {rank} stood here (all its threads: {place}):{frames}")

    def _write(self, verdict: Verdict) -> None:
        """Write `failure.json`: rank 0, and every other one that does not find it, with the same words."""
        folder = self._folder()
        refused = verdict.exit_code in _MISTAKES and verdict.step == 0
        if folder is None or refused or is_interrupted(verdict.exit_code):
            return
        if self._ranks.rank and failure.is_newer(folder, self._began):
            return
        try:
            files = sorted(folder.glob("stacks-rank-*.txt"))
            stacks = [path.name for path in files if failure.is_newer_file(path, self._began)]
            failure.write(folder, failure.record(verdict, self._ranks, self._environ, stacks))
        except OSError as error:
            self.say(f"{failure.FAILURE} cannot be written: {error}")

    def _folder(self) -> Path | None:
        text = self._rank.page.text("folder")
        return Path(text) if text else None
