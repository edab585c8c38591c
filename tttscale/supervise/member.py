"""What the hub knows of one rank."""

from dataclasses import dataclass
from enum import StrEnum

from tttscale.supervise.signs import Sign
from tttscale.supervise.verdict import Ended


class State(StrEnum):
    """What has become of a rank, as far as the hub knows."""

    UNSEEN = "unseen"
    """Its supervisor has not come yet."""
    HERE = "here"
    ENDED = "ended"
    """It has failed, and its supervisor says how."""
    LOST = "lost"
    """Its supervisor has gone without a word: killed, or its host or network is gone."""
    LEFT = "left"
    """It has ended as it should."""


@dataclass
class Member:
    """A rank."""

    rank: int
    host: str = ""
    state: State = State.UNSEEN
    sign: Sign | None = None
    """Its last sign of life."""
    ended: Ended | None = None
    at: float = 0.0
    """When it ended or was lost, by the hub's clock."""

    @property
    def failed(self) -> bool:
        """Whether it counts for a verdict on deaths."""
        return self.state in (State.ENDED, State.LOST)
