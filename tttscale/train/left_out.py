"""Data that a run has left out by itself, after rolling back: `left_out.json` in the run's folder.

The numbers are those of `data.skip_steps`, and the run reads its data as if they stood there. A later start
adds them again, so that it continues as the run would have, whatever ended it.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tttscale.comm.collective import on_all_ranks
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.config.data_section import normalised_steps
from tttscale.data.store.manifest import Record
from tttscale.errors import CheckpointError
from tttscale.files import replaced
from tttscale.reading import read_json
from tttscale.train.run_folder import LEFT_OUT

_LARGEST_BYTES = 1 << 20
_ADVICE = (
    "Without it the run would read other data than before. Put the file back as the run wrote it, or add the "
    "steps that its checkpoints' config.yaml has to data.skip_steps and remove it."
)


class RollBack(Record):
    """One time that the run was rolled back."""

    data: int = Field(ge=1)
    """Step number of the data that is left out from then on."""
    step: int = Field(ge=1)
    """The step that failed."""
    checkpoint: int = Field(ge=1)
    """The checkpoint that the run was rolled back to."""


class _File(Record):
    """The content of `left_out.json`."""

    format: Literal["tttscale-left-out"] = "tttscale-left-out"
    format_version: Literal[1] = 1
    roll_backs: list[RollBack]


class LeftOut:
    """The roll-backs of a run so far; all ranks call the same methods."""

    def __init__(self, mesh: Mesh, run_folder: Path) -> None:
        """Read what earlier starts have left out, on rank 0 for all.

        Raises:
            CheckpointError: the file is damaged.
        """
        self._mesh, self._path = mesh, run_folder / LEFT_OUT
        found = on_all_ranks(mesh, lambda: self._read() if mesh.rank == 0 else [], CheckpointError)[
            0
        ]
        self._roll_backs = [RollBack.model_validate(fields) for fields in found]

    def applied(self, config: Config) -> Config:
        """Return a configuration with the data that is left out among `data.skip_steps`."""
        if not self._roll_backs:
            return config
        steps = [*config.data.skip_steps, *(each.data for each in self._roll_backs)]
        data = config.data.model_copy(update={"skip_steps": normalised_steps(steps)})
        return config.model_copy(update={"data": data})

    def in_a_row(self, checkpoint: int) -> int:
        """Count how often the run was rolled back to this checkpoint, without another one since."""
        row = 0
        for each in reversed(self._roll_backs):
            if each.checkpoint != checkpoint:
                break
            row += 1
        return row

    def add(self, roll_back: RollBack) -> None:
        """Note one more.

        Raises:
            CheckpointError: rank 0 cannot write it.
        """
        self._roll_backs.append(roll_back)
        on_all_ranks(
            self._mesh, lambda: self._write() if self._mesh.rank == 0 else None, CheckpointError
        )

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists() and not self._path.is_symlink():
            return []
        found = read_json(
            self._path, error=CheckpointError, advice=_ADVICE, limit_bytes=_LARGEST_BYTES
        )
        try:
            return _File.model_validate(found).model_dump()["roll_backs"]
        except ValidationError:
            raise CheckpointError(f"{self._path} is damaged. {_ADVICE}") from None

    def _write(self) -> None:
        with replaced(self._path) as file:
            file.write((_File(roll_backs=self._roll_backs).model_dump_json() + "\n").encode())
