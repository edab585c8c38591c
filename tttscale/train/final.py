"""`final/` of a run: its last weights, there as a whole or not at all."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tttscale.errors import CheckpointError
from tttscale.files import free_name, sync
from tttscale.reading import read_json
from tttscale.tensors import open_tensors

NAME, PARTIAL = "final", "final.partial"
_FILES = ("model.safetensors", "config.json")


def write_final(run_folder: Path, model: Any) -> Path:
    """Write the weights to a folder beside, put them on disk, and only then rename it to `final`.

    Raises:
        OSError: the file system refused; `final` is as it was, and nothing half-written is left.
    """
    partial, final = run_folder / PARTIAL, run_folder / NAME
    _clear(partial)
    try:
        model.save_pretrained(partial)
        for name in _FILES:
            sync(partial / name)
        sync(partial)
    except BaseException:
        with suppress(OSError):
            _clear(partial)
        raise
    archive_final(run_folder)
    partial.rename(final)
    sync(run_folder)
    return final


def archive_final(run_folder: Path) -> Path | None:
    """Rename `final`, whatever it is; return its new path, or None if there is no `final`.

    Raises:
        OSError: the file system refused.
    """
    final = run_folder / NAME
    if not final.exists() and not final.is_symlink():
        return None
    return final.rename(free_name(run_folder / f"{NAME}-replaced"))


def is_whole(run_folder: Path) -> bool:
    """Return whether the final weights are complete, have their configuration, and can be read."""
    weights, config = (run_folder / NAME / name for name in _FILES)
    if not (weights.is_file() and config.is_file()):
        return False
    try:
        with open_tensors(weights):  # its header says how long the file is
            pass
        return isinstance(read_json(config, error=CheckpointError, advice="Move it away"), dict)
    except CheckpointError:
        return False


def _clear(partial: Path) -> None:
    """Remove what a killed attempt has left; rename it if there are other files than ours."""
    if partial.is_dir() and not partial.is_symlink():
        for name in _FILES:
            for path in (partial / name, *partial.glob(f"{name}.partial-*")):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            partial.rmdir()
    if partial.exists() or partial.is_symlink():
        partial.rename(free_name(partial))
