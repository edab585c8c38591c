"""A carry as a message: a header that is checked on arrival, then the tensors; and the links of a ring.

Every transport between processes sends the same bytes.
"""

import zlib

import torch
from torch import Tensor

from tttscale.errors import PeerError
from tttscale.model.device import to_device
from tttscale.model.ports import Carried, Part
from tttscale.scan.carry_store import carried_bytes, packed
from tttscale.scan.schedule import CarryKey, Phase

HEADER_NUMBERS = 6
HEADER_BYTES = 8 * HEADER_NUMBERS
_MAGIC = 1779
"""First number of every message."""


def header(key: CarryKey) -> list[int]:
    """The numbers that lead a message and are checked on arrival."""
    forward = int(key.phase is Phase.FORWARD)
    part = zlib.crc32(key.part.encode())
    return [_MAGIC, forward, key.sequence, key.boundary, key.layer, part]


def message_bytes(carried: Carried) -> int:
    """Length of the message that carries a part."""
    return HEADER_BYTES + carried_bytes(carried)


def message(key: CarryKey, part: Part, device: torch.device) -> Tensor:
    """Copy header and tensors into one buffer: uint8 [message_bytes]."""
    lead = to_device(torch.tensor(header(key)).view(torch.uint8), device)
    return torch.cat([lead, *packed(part)])


def check_header(rank: int, key: CarryKey, lead: Tensor) -> None:
    """Compare a header with what was expected.

    Args:
        rank: this rank, on the sequence axis.
        key: of the expected message.
        lead: the first HEADER_BYTES of the received one, uint8.

    Raises:
        PeerError: they differ.
    """
    found, wanted = lead.view(torch.int64).tolist(), header(key)
    if found != wanted:
        raise PeerError(
            f"sequence rank {rank} expected {key} (header {wanted}) and received header "
            f"{found}; the ranks run different configurations or versions"
        )


def ring_links(size: int) -> list[tuple[int, int, Phase]]:
    """(source, target, phase) of a ring: states go up, gradients go down."""
    ups = [(r, (r + 1) % size, Phase.FORWARD) for r in range(size)]
    return ups + [(target, source, Phase.BACKWARD) for source, target, _ in ups]


def lost_at(rank: int, peer: int, key: CarryKey, error: Exception) -> PeerError:
    """The error of a rank that noticed a neighbour's end at a message."""
    return lost(f"sequence rank {rank} lost rank {peer} at {key}", error)


def lost(what: str, error: Exception) -> PeerError:
    """The error of a rank that noticed another one's end."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return PeerError(
        f"{what}: {reason}. The first rank that failed has the cause; this rank only noticed."
    )
