"""Event files for TensorBoard: the numbers of metrics.jsonl under the same names, by step."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttscale.errors import ConfigError
from tttscale.observe.guard import Guard
from tttscale.packages import needed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
_QUEUE, _FLUSH_SECONDS = 4096, 20


def check_installed() -> None:
    """Check that event files can be written.

    Raises:
        ConfigError: the package is not installed, or cannot be loaded.
    """
    remedy = (
        "Run `pip install 'tttscale[tensorboard]'`, in a checkout `pip install -e '.[tensorboard]'`; or set "
        "logging.tensorboard=false."
    )
    with needed("tensorboard", "logging.tensorboard = true", remedy, ConfigError):
        import torch.utils.tensorboard  # noqa: F401 (what is missing is found here)


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step's record by their names, without the step; NaN and infinities, too."""
    return {
        key: float(value)
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class TensorboardSink:
    """Writes records to RUN/tensorboard; what goes wrong there becomes one warning, and the sink is off.

    A run that resumes, or rolls back, at an earlier step begins a new file that takes the place of what older
    ones have of the steps from there on.

    Args:
        run_dir: the run's folder.
        is_on: whether anything is written.
    """

    def __init__(self, run_dir: Path, is_on: bool) -> None:
        self._folder = run_dir / FOLDER
        self._writer: SummaryWriter | None = None
        self._last_step = 0
        self._guard = Guard("TensorBoard is off", "and its metrics are in metrics.jsonl")
        self._is_on = is_on

    def log(self, record: Mapping[str, Any]) -> None:
        """Write one step's record (it has a `step`); a thread puts it on disk."""
        if not self._is_on or not self._guard.is_on:
            return
        with self._guard():
            step = int(record["step"])
            if self._writer is None or step <= self._last_step:
                self._begin(step)
            assert self._writer is not None
            for name, value in scalars(record).items():
                self._writer.add_scalar(name, value, step)
            self._last_step = step

    def finish(self) -> None:
        """Put all on disk and close the file."""
        writer, self._writer = self._writer, None
        if writer is not None and self._guard.is_on:
            with self._guard():
                writer.close()

    def _begin(self, step: int) -> None:
        """Begin a file; viewers drop what earlier files have of `step` and of later ones."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        if self._folder.is_symlink():
            raise OSError(f"{self._folder} is a link, which is not written through")
        self._writer = SummaryWriter(
            str(self._folder), purge_step=step, max_queue=_QUEUE, flush_secs=_FLUSH_SECONDS
        )
