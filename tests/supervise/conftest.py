import pytest

from tests.supervise.jobs import Star


@pytest.fixture
def star(monkeypatch):
    with Star(4, monkeypatch) as found:
        found.meet()
        yield found
