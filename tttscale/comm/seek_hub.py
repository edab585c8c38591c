"""A process that looks for rank 0's supervisor, for a supervisor whose rank ended before it knew; no rank.

Where no launcher ends the others, they would wait at the meeting for half an hour. So this process goes there
in the rank's place (it may import torch, which a supervisor does not). In rank 0's place it listens there and
says where rank 0's supervisor is, so that ranks that still come get its verdict at once.
"""

import os
import sys
import time

from tttscale.cluster.job_secret import job_secret
from tttscale.cluster.ranks import Ranks, discover
from tttscale.comm.first_store import appeared, open_store
from tttscale.comm.meeting import Door, publish_hub, published_hub

SECONDS = 7.0
"""How long it looks."""


def seek(ranks: Ranks, own: str, seconds: float = SECONDS) -> tuple[str, object]:
    """Return where rank 0's supervisor is, and what has to be kept so that others find it.

    Args:
        ranks: whose place this process takes.
        own: where rank 0's supervisor is, if that is the one that asks; else empty.
        seconds: how long to look.

    Raises:
        LaunchError: there is no meeting.
    """
    deadline = time.monotonic() + seconds
    plain, route = open_store(ranks, deadline)
    store = Door(ranks, plain, job_secret(os.environ, ranks)).enter(deadline)
    if ranks.rank == 0:
        publish_hub(store, own, route)
        return own, plain
    text = published_hub(store, route) if appeared(store, ["hub"], deadline) else ""
    return text, plain


def main() -> None:
    """Read a place from stdin (empty but for rank 0), print the one that was found, stay until stdin ends."""
    own = sys.stdin.readline().strip()
    found, kept = seek(discover(os.environ), own)
    print(found, flush=True)
    sys.stdin.read()
    del kept


if __name__ == "__main__":
    main()
