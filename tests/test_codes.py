"""The table of exit codes; what docs make of it: tests/docs/test_texts.py."""

from tttscale.codes import CODES
from tttscale.errors import ConfigError, NumericsError, PeerError
from tttscale.train.training_run import SAVED_ON_REQUEST


def test_every_number_has_one_meaning():
    assert len({code.number for code in CODES}) == len({code.name for code in CODES}) == len(CODES)
    assert all(0 <= code.number < 256 for code in CODES)
    assert [code.number for code in CODES] == sorted(code.number for code in CODES)


def test_they_are_those_that_users_rely_on():
    assert (ConfigError.exit_code, PeerError.exit_code, NumericsError.exit_code) == (64, 71, 76)
    assert SAVED_ON_REQUEST == 75
