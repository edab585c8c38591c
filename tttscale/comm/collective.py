"""Work that succeeds on all ranks or fails on all of them."""

import json
from collections.abc import Callable
from typing import TypeVar

from tttscale.comm.aside import Gathers
from tttscale.errors import TTTScaleError

T = TypeVar("T")


def on_all_ranks(ranks: Gathers, work: Callable[[], T], *kinds: type[TTTScaleError]) -> list[T]:
    """Call `work` on every rank and exchange the results; every rank calls this.

    Args:
        ranks: all ranks.
        work: may differ between ranks; its result is what JSON carries.
        kinds: errors to pass on to all ranks, a subclass before its base. The last one also stands for an
            OSError. All other errors end this rank only.

    Returns:
        The results, in rank order.

    Raises:
        TTTScaleError: of one of `kinds`, on all ranks: the error of the first rank that had one.
    """
    own: dict[str, object] = {}
    try:
        own["result"] = work()
    except (OSError, *kinds) as error:
        kind = next((i for i, kind in enumerate(kinds) if isinstance(error, kind)), len(kinds) - 1)
        own |= {"problem": str(error), "kind": kind}
    rows = [json.loads(text) for text in ranks.gather_texts(json.dumps(own))]
    for rank, row in enumerate(rows):
        if "problem" in row:
            where = f"rank {rank}: " if ranks.world_size > 1 else ""
            raise kinds[row["kind"]](f"{where}{row['problem']}")
    return [row["result"] for row in rows]
