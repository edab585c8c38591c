"""A run that has diverged: advice by its cause, and a refusal to start it again in vain.

Resuming is exact, so the same command diverges at the same step again. The failure is noted in the run's
folder (`diverged.json`, one small record), for a launcher that starts the command over and over.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tttscale.comm.mesh import Mesh
from tttscale.config import Config, flat_keys
from tttscale.data.windows.order import data_step
from tttscale.errors import CheckpointError, NumericsError
from tttscale.files import digest_of, replaced
from tttscale.reading import read_json
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manager import Checkpoint

_NAME = "diverged.json"
_LARGEST_BYTES = 4096
_TIMES = 2
"""Failures of the same step after which the same command is not started again."""
_WITHOUT_EFFECT = (
    "run.name",
    "run.dir",
    "logging.",
    "checkpoint.",
    "parallel.threads",
    "train.check_replicas_every",
)
"""Keys that change no number of a step."""

Short = Annotated[str, Field(max_length=500)]


class Breakdown(BaseModel):
    """The content of `diverged.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    step: int
    """The step that failed."""
    times: int
    """Failures in a row, with the same configuration."""
    config: Short
    """A digest of the configuration."""
    origin: Short
    """A digest of the checkpoint that the last attempt resumed from; empty without one."""
    what: Short
    """The first words of the error."""


class Divergence:
    """Explains a NumericsError; all ranks call the same methods."""

    def __init__(
        self, config: Config, mesh: Mesh, run_folder: Path, resumed: Checkpoint | None
    ) -> None:
        self._config, self._mesh = config, mesh
        self._path = run_folder / _NAME
        self._saved = CheckpointFolder(run_folder / "checkpoints")
        keys = flat_keys(config.model_dump(mode="json"))
        kept = sorted((key, value) for key, value in keys if not key.startswith(_WITHOUT_EFFECT))
        self._digest = digest_of(json.dumps(kept).encode())
        self._origin, self._resumed_step = "", None
        if resumed is not None:
            self._resumed_step = resumed.manifest.step
            self._origin = digest_of(resumed.manifest.render().encode())
        self._before = self._read() if mesh.rank == 0 else None

    def refuse(self) -> None:
        """Refuse to start what has failed twice in the same way, from the same weights.

        Raises:
            NumericsError: on all ranks.
        """
        before, text = self._before, ""
        if (
            before is not None
            and before.times >= _TIMES
            and (before.config, before.origin) == (self._digest, self._origin)
            and self._config.checkpoint.resume == "auto"
        ):
            text = (
                f"this command has failed {before.times} times at the same step ({before.what}) and "
                f"would again: it is not started. {self._advice(before.step, before.step - 2)} To try it "
                f"nevertheless, remove {self._path}."
            )
        if text := self._mesh.gather_texts(text)[0]:
            raise NumericsError(text)

    def passed(self, step: int) -> None:
        """Note that a step succeeded: an earlier failure of it no longer counts."""
        if self._before is not None and step >= self._before.step:
            self._before = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def explained(self, error: NumericsError) -> NumericsError:
        """Return the error with advice, and note it for the next start."""
        text = ""
        if self._mesh.rank == 0:
            text = f"{error}{self._note(error)} {self._advice(error.step, error.sound)}"
        return NumericsError(self._mesh.gather_texts(text)[0], error.step, error.sound)

    def _note(self, error: NumericsError) -> str:
        """Write down that a step failed; return a sentence if it had failed before."""
        before, times = self._before, 1
        if before is not None and (before.step, before.config) == (error.step, self._digest):
            times = before.times + 1
        now = Breakdown(
            step=error.step,
            times=times,
            config=self._digest,
            origin=self._origin,
            what=str(error)[:200],
        )
        with suppress(OSError), replaced(self._path) as file:
            file.write((now.model_dump_json() + "\n").encode())
        if times == 1:
            return ""
        return f" This step has now failed {times} times in the same way, and will again."

    def _advice(self, step: int, sound: int) -> str:
        """Say what to change.

        Args:
            step: the step that failed.
            sound: the last step after which the weights still gave a finite loss.
        """
        model, train = self._config.model, self._config.train
        wider = ", or set train.precision=fp32" if train.precision == "bf16" else ""
        if step == 1 and sound < 0:
            cause = "No update has been made yet, so train.lr is not the cause"
            if model.initial_weights is not None:
                return (
                    f"{cause}: look at the weights of model.initial_weights = {model.initial_weights}, and "
                    f"whether they were trained with model.ttt_base_lr = {model.ttt_base_lr:g}{wider}."
                )
            return f"{cause}: lower model.ttt_base_lr or model.initializer_range{wider}."
        data = data_step(step, self._config.data.skipped)
        change = (
            "Lower train.lr or model.ttt_base_lr, or raise train.warmup_steps or "
            f"model.inner_lr_warmup_steps{wider}; or, if only this step's data are at fault, add {data} to "
            "data.skip_steps."
        )
        if self._resumed_step is not None and sound < self._resumed_step == step - 1:
            change = (
                f"The weights of step {self._resumed_step}, from which this run resumed, give no finite "
                f"loss, and no learning rate repairs that (if only this step's data are at fault, add {data} "
                "to data.skip_steps)."
            )
        with suppress(OSError):
            saved = self._saved.steps()
            earlier = [n for n in saved if n <= sound]
            if earlier:
                return (
                    f"{change} And resume from a step before it went wrong, for example: "
                    f"checkpoint.resume={earlier[0]} train.lr={train.lr / 2:.3g}"
                )
            if saved:
                return (
                    f"{change} No checkpoint is old enough to resume from (there is step "
                    f"{', '.join(map(str, sorted(saved)))}): start again under another run.name."
                )
        return (
            f"{change} There is no checkpoint to resume from: start again under another run.name."
        )

    def _read(self) -> Breakdown | None:
        """Return what was noted; None without a note, or if it cannot be read."""
        if self._path.is_symlink() or not self._path.exists():
            return None
        try:
            found = read_json(
                self._path, error=CheckpointError, advice="", limit_bytes=_LARGEST_BYTES
            )
            return Breakdown.model_validate(found)
        except (CheckpointError, ValidationError):
            return None
