"""What a run does about a step whose numbers cannot be used: `train.on_divergence`."""

from typing import NamedTuple

from tttscale.config import Config
from tttscale.data.windows.order import data_step
from tttscale.errors import NumericsError
from tttscale.train.checkpoint.manager import Checkpoint, CheckpointManager
from tttscale.train.left_out import LeftOut, RollBack
from tttscale.train.non_finite import StepError

MOST = 2
"""Steps skipped in a row, or times that a run is rolled back to the same checkpoint; one more stops it."""


class WayBack(NamedTuple):
    """How a run continues after it has rolled back."""

    checkpoint: Checkpoint
    config: Config
    """With the data that is left out."""
    lines: list[str]
    """For the console."""


class OnDivergence:
    """Skips or rolls back, a bounded number of times; all ranks call the same methods."""

    def __init__(self, config: Config, left_out: LeftOut) -> None:
        """Nothing was skipped yet.

        Args:
            config: `train.on_divergence` decides.
            left_out: the roll-backs so far, also of earlier starts.
        """
        self._asked, self._left_out = config.train.on_divergence, left_out
        self._skipped = 0  # in a row
        self.owes_checkpoint = False
        """A checkpoint that was due after a skipped step comes after the next step that is not skipped. So
        a run that resumes counts skipped steps as this one does."""

    @property
    def has_skipped(self) -> bool:
        """Whether the last step was skipped."""
        return self._skipped > 0

    def passed(self) -> None:
        """Count a step that was not skipped."""
        self._skipped = 0

    def skip(self, error: StepError) -> str:
        """Count a step whose update is left out.

        Returns:
            A line for the console.

        Raises:
            NumericsError: that is not asked for, or it is the third in a row.
        """
        if self._asked != "skip":
            raise error
        if self._skipped == MOST:
            raise NumericsError(
                f"{error} The {MOST} steps before it were skipped, too (train.on_divergence=skip).",
                error.step,
                error.sound - MOST,
            )
        self._skipped += 1
        return (
            f"WARNING: {error} The step is skipped ({self._skipped} in a row; the one after {MOST} stops the "
            "run)"
        )

    def roll_back(
        self, error: NumericsError, config: Config, checkpoints: CheckpointManager
    ) -> WayBack:
        """Choose the checkpoint to resume from, and leave out the data of the step that failed.

        Returns:
            How to continue. A start from now on would continue in the same way.

        Raises:
            NumericsError: that is not asked for, or there is no checkpoint, or it is the third time.
            CheckpointError: a checkpoint, or the note of what is left out, cannot be read or written now.
        """
        if self._asked != "roll_back":
            raise error
        found = checkpoints.find_sound(error.sound)
        if found is None:
            text = f"{error} There is no checkpoint of an earlier step to roll back to."
            raise NumericsError(text, error.step, error.sound)
        step, data = found.manifest.step, data_step(error.step, config.data.skipped)
        times = self._left_out.in_a_row(step)
        if times == MOST:
            raise NumericsError(
                f"{error} The run was rolled back to step {step} {times} times already "
                "(train.on_divergence=roll_back).",
                error.step,
                error.sound,
            )
        # Before the note: a start in between resumes from here, fails again, and comes by here again.
        archived = checkpoints.archive_later(found)
        self._left_out.add(RollBack(data=data, step=error.step, checkpoint=step))
        self._skipped, self.owes_checkpoint = 0, False
        line = (
            f"WARNING: {error} Rolled back to step {step} ({found.folder}); step {data} of the data is "
            f"left out from now on ({times + 1} in a row; the one after {MOST} stops the run)"
        )
        return WayBack(found, self._left_out.applied(config), [line, *archived])
