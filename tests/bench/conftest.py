"""Workers of benchmarks that need not import everything first."""

import pytest

from tests import warm
from tttscale.bench import report


@pytest.fixture
def forked(monkeypatch):
    """Workers have everything imported already."""
    monkeypatch.setattr(report, "start_worker", warm.start_worker)
