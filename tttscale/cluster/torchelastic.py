"""The error file that torchrun shows of a process that failed."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from tttscale.files import open_new
from tttscale.scrub import scrubbed

_FILE = "TORCHELASTIC_ERROR_FILE"


def tell_torchrun(message: str) -> None:
    """Write why this process fails to torchrun's error file; do nothing under other launchers.

    Without it torchrun ends with a box that says `error_file: <N/A>`.
    """
    path = os.environ.get(_FILE)
    if not path:
        return
    extra = {
        "timestamp": str(int(time.time()))
    }  # torchrun takes the earliest of several for the cause
    # The process ends with its own message whatever becomes of this one.
    text = json.dumps({"message": {"message": scrubbed(message), "extraInfo": extra}})
    with suppress(OSError), open_new(Path(path)) as file:
        file.write(text.encode())
