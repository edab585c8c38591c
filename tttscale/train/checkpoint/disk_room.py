"""Whether all checkpoints of a run will fit on its disk: found out before the first step."""

import shutil

from tttscale.errors import CheckpointError
from tttscale.observe import human
from tttscale.train.checkpoint.folder import CheckpointFolder

_BYTES_PER_PARAMETER = 12
"""Weight and two moments, fp32."""


def check_disk_room(folder: CheckpointFolder, parameters: int, to_come: int, keep: int) -> None:
    """Compare the free bytes with what the checkpoints to come will take at once.

    Args:
        folder: where they will be written; it exists.
        parameters: of the model; each takes 12 bytes of a checkpoint.
        to_come: checkpoints that the run will still write.
        keep: `checkpoint.keep`; for a moment there is one more.

    Raises:
        CheckpointError: they do not fit.
        OSError: the disk cannot be asked.
    """
    free_bytes = shutil.disk_usage(folder.root).free
    size_bytes = parameters * _BYTES_PER_PARAMETER
    at_once = min(to_come, max(1, keep + 1 - len(folder.steps())))
    if free_bytes < at_once * size_bytes:
        raise CheckpointError(
            f"checkpoint.keep = {keep}: {at_once} more checkpoint(s) of {human(size_bytes, 1024)}B (for a "
            f"moment one more than is kept) do not fit into {folder.root}, with "
            f"{human(free_bytes, 1024)}B free. Make room, name another folder with run.dir=..., or set a "
            "smaller checkpoint.keep, or checkpoint.every=0."
        )
