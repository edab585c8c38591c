"""The machines of a job: which rank this process is, under whichever launcher. No torch here."""

from tttscale.cluster.ranks import Ranks, discover

__all__ = ["Ranks", "discover"]
