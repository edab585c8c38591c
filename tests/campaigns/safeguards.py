"""Safeguards, how each would be broken, and the tests that have to notice.

`old` stands exactly once in `file`; tests/test_safeguards.py fails as soon as it does not.
"""

from tests.campaigns import safeguards_of_inputs, safeguards_of_ranks, safeguards_of_runs
from tests.campaigns.safeguard import Safeguard

__all__ = ["SAFEGUARDS", "Safeguard"]

SAFEGUARDS = (
    *safeguards_of_runs.SAFEGUARDS,
    *safeguards_of_inputs.SAFEGUARDS,
    *safeguards_of_ranks.SAFEGUARDS,
)
