"""The machines of a job: which rank this process is, under whichever launcher. No torch here."""

from tttscale.cluster.ranks import Ranks, discover, discover_place

__all__ = ["Ranks", "discover", "discover_place"]
