"""The processes of a job: which rank this one is, under every launcher. No torch here."""

from tttscale.cluster.launcher import join
from tttscale.cluster.ranks import Ranks, discover, discover_place

__all__ = ["Ranks", "discover", "discover_place", "join"]
