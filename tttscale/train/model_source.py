"""Where a trained model lies: its own folder, or the newest weights of a run; and its tokenizer."""

from pathlib import Path

from tttscale.data.provenance import trained_tokenizer
from tttscale.data.tokenizers.tokenizer import TOKENIZER_NAME, Tokenizer, load_tokenizer
from tttscale.errors import CheckpointError, DataError
from tttscale.model.weights import CONFIG
from tttscale.train import final
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manifest import check_file, read_manifest

_CHECKPOINTS = "checkpoints"


def model_folder(path: Path) -> tuple[Path, list[str]]:
    """Find the weights that a path names.

    Args:
        path: a model's folder, or a run's: its `final`, or its newest checkpoint whose weights are whole.

    Returns:
        The model's folder, and notices of checkpoints that were skipped.

    Raises:
        CheckpointError: it is neither, or none of its checkpoints is whole.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "is no folder"
        raise CheckpointError(
            f"{path} {what}. Give a run's folder (run.dir/run.name), or a model's"
        )
    if (path / CONFIG).exists():
        return path, []
    if final.is_whole(path):
        return path / final.NAME, []
    checkpoints, notices = CheckpointFolder(path / _CHECKPOINTS), list[str]()
    for step in _steps(checkpoints):
        folder = checkpoints.path(step)
        try:
            files = read_manifest(folder).files
            for name, file in files.items():
                if not name.startswith("optimizer-"):
                    check_file(folder / name, file)
        except CheckpointError as error:
            notices.append(f"{folder} is skipped: {error}")
            continue
        except OSError as error:
            raise CheckpointError(f"{folder}: {error.strerror or error}") from None
        return folder, notices
    if notices:
        raise CheckpointError(f"{path}: none of its checkpoints is whole; {'; '.join(notices)}")
    raise CheckpointError(
        f"{path} holds no {CONFIG}, no whole {final.NAME}/ and no checkpoint. Give a model's folder, or "
        "a run's that has ended or has written a checkpoint (checkpoint.every=N)"
    )


def model_tokenizer(folder: Path, spec: str | None) -> Tokenizer:
    """Find the tokenizer of a model.

    Args:
        folder: of the model.
        spec: as `--tokenizer` has it; None: the folder's own, or that of the data it was trained on.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if spec is not None:
        return load_tokenizer(spec)
    if (folder / TOKENIZER_NAME).exists():
        return load_tokenizer(str(folder))
    found = trained_tokenizer(folder)
    if found is None:
        raise DataError(
            f"{folder} has no {TOKENIZER_NAME}, and no data.json says what it was trained on. Name its "
            "tokenizer with --tokenizer: bytes, or a tokenizer.json."
        )
    return found


def _steps(checkpoints: CheckpointFolder) -> list[int]:
    try:
        return checkpoints.steps()
    except OSError as error:
        raise CheckpointError(f"{checkpoints.root}: {error.strerror or error}") from None
