"""`checkpoint.json`: what a checkpoint consists of. It is written last; a folder without it is no checkpoint.

A checkpoint is a folder `step-N` with

    model.safetensors, config.json     the weights after step N; a model folder like any other
    optimizer-RRRRR.safetensors        AdamW's moments that rank R kept (`optimizer_state`)
    config.yaml, data.json             the run's configuration and stores then
    checkpoint.json                    sizes and digests of all of these, and the counters

Only the number of files depends on how many ranks wrote it.
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tttscale import __version__
from tttscale.data.store.manifest import Record, manifest_digest
from tttscale.errors import CheckpointError
from tttscale.files import digest
from tttscale.reading import JSON_BYTES, parse_json, read_bytes
from tttscale.versions import is_newer, newer

MANIFEST, RUN_CONFIG = "checkpoint.json", "config.yaml"
FILE_PATTERN = (
    r"^(model\.safetensors|config\.json|config\.yaml|data\.json|optimizer-[0-9]{5}\.safetensors)$"
)
"""Keys become paths, so only these names are accepted."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was written; an older one may be whole."""


class SavedFile(Record):
    """One file of a checkpoint."""

    bytes: int = Field(ge=0)
    blake2b: str
    """16-byte digest, hexadecimal."""

    @classmethod
    def of(cls, path: Path) -> "SavedFile":
        """Describe the file that is at `path` now."""
        return cls(bytes=path.stat().st_size, blake2b=digest(path))


class Manifest(Record):
    """The content of `checkpoint.json`."""

    format: Literal["tttscale-checkpoint"] = "tttscale-checkpoint"
    format_version: Literal[1] = 1
    step: int = Field(ge=1)
    """Steps done."""
    tokens: int = Field(ge=0)
    """Tokens with a loss so far."""
    updates: int = Field(ge=0)
    """Updates of the optimizer: fewer than `step` where a step held only padding."""
    wandb_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None
    """The id by which wandb knows the run; a part of paths."""
    versions: dict[str, str]
    """Versions of Python and of the packages that computed it."""
    files: dict[Annotated[str, Field(pattern=FILE_PATTERN)], SavedFile]
    """All files but this one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.updates > self.step:
            raise ValueError(f"{self.updates} updates in {self.step} steps")
        return self

    @property
    def total_bytes(self) -> int:
        """Size of all files on disk."""
        return sum(file.bytes for file in self.files.values())

    def render(self) -> str:
        """Return the text of checkpoint.json: all fields, and a digest of them."""
        fields = self.model_dump()
        return json.dumps(fields | {"digest": manifest_digest(fields)}, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the checkpoint in `folder`.

    Raises:
        DamagedError: it is missing, or not what was written.
        CheckpointError: a newer tttscale wrote it, or no checkpoint can have its values.
        OSError: it cannot be read now.
    """
    path, earlier = folder / MANIFEST, "an earlier one with checkpoint.resume=N"
    try:
        fields: Any = parse_json(read_bytes(path, JSON_BYTES))
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    versions_then = fields.get("versions")
    wrote = versions_then.get("tttscale") if isinstance(versions_then, dict) else None
    try:
        Manifest.refuse_newer(fields, path, CheckpointError, wrote)
    except CheckpointError as error:  # or one bit of the number was flipped
        raise CheckpointError(f"{error}, or resume from {earlier}") from None
    found = fields.pop("digest", None)
    if found != manifest_digest(fields):
        if is_newer(wrote):
            raise CheckpointError(newer(path, wrote))
        raise DamagedError(f"{path} is damaged: its content does not have its digest")
    return Manifest.read(fields, path, CheckpointError, f"Name {earlier}", wrote)


def check_file(path: Path, expected: SavedFile) -> None:
    """Read a file and compare it with what was written.

    Raises:
        DamagedError: it is missing, or has another size or content.
        OSError: it cannot be read now.
    """
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise DamagedError(
                f"{path} is damaged: {size:,} bytes, {expected.bytes:,} were written"
            )
        if digest(path) != expected.blake2b:
            raise DamagedError(f"{path} is damaged: its content is not what was written")
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: {error.strerror}") from None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    packages = {name: _version(name) for name in ("torch", "deepspeed")}
    return {"python": platform.python_version(), "tttscale": __version__, **packages}


def _version(name: str) -> str:
    """Return a package's version; one that is imported from a folder is not installed and has none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
