"""What the ranks of one job know and other processes do not, as a pure function of the environment."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from tttscale.cluster.ranks import Ranks, job_of
from tttscale.errors import LaunchError

VARIABLE = "TTTSCALE_JOB_SECRET"
_SHORTEST = 8
"""From this length on `tttscale.scrub` hides the value wherever it occurs."""


@dataclass(frozen=True)
class JobSecret:
    """A value that no message shows, and the variable that it was read from."""

    value: bytes = field(repr=False)
    variable: str
    """Empty if the launcher's environment names no job."""

    def sign(self, text: str) -> str:
        """Return a proof that its writer knows the value: HMAC-SHA256 of `text`, 64 hexadecimal digits."""
        return hmac.new(self.value, text.encode(), hashlib.sha256).hexdigest()

    def knows(self, text: str, proof: str) -> bool:
        """Return whether `proof` is the signature of `text`."""
        return hmac.compare_digest(self.sign(text).encode(), proof.encode(errors="replace"))


def job_secret(environ: Mapping[str, str], ranks: Ranks) -> JobSecret:
    """Read what this job's ranks share.

    TTTSCALE_JOB_SECRET wins. Without it the launcher's own name of the job stands in, which other jobs do not
    use by accident, but which others on the cluster may look up.

    Args:
        environ: this process's environment.
        ranks: who this process is; its launcher decides which variables all ranks have.

    Raises:
        LaunchError: TTTSCALE_JOB_SECRET is too short.
    """
    given = environ.get(VARIABLE, "")
    if given:
        if len(given) < _SHORTEST:
            raise LaunchError(
                f"{VARIABLE} has {len(given)} characters and needs at least {_SHORTEST}. Set it to a random "
                "text, the same on all ranks, for example of `openssl rand -hex 16`, or unset it."
            )
        return JobSecret(given.encode(errors="surrogateescape"), VARIABLE)
    variable, value = job_of(environ, ranks.source)
    return JobSecret(f"tttscale {variable}={value}".encode(errors="surrogateescape"), variable)
