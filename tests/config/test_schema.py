"""Keys: described, frozen, and which values they take."""

import pytest

from tests.config.conftest import RUN
from tests.config.test_load import refused
from tttscale.config import Config, load_config


def test_a_configuration_cannot_change(write):
    config = load_config(write())
    with pytest.raises(Exception, match="frozen"):
        config.train.lr = 1.0


def test_every_key_is_described():
    def undescribed(section, prefix=""):
        for name, field in section.model_fields.items():
            if not field.description:
                yield prefix + name
            if hasattr(field.annotation, "model_fields"):
                yield from undescribed(field.annotation, f"{prefix}{name}.")

    assert list(undescribed(Config)) == []


@pytest.mark.parametrize("value", ["auto", "torch", "mpi"])
def test_what_carries_travel_over(write, value):
    """Files of all versions name it, or do not."""
    old = write(f"parallel: {{transport: {value}, sequence: 1}}\n", "old.yaml")
    config = load_config(write(f"base: {old.name}\n" + RUN))
    assert config.parallel.transport == value
    assert load_config(write()).parallel.transport == "auto"


@pytest.mark.parametrize("value", ["nccl", "[auto]", "{auto: 1}", "null"])
def test_other_transports_are_refused_with_those_that_there_are(write, value):
    said = refused(write(), f"parallel.transport={value}")
    assert said.startswith(f"override 'parallel.transport={value}': parallel.transport")
    assert "expected 'auto', 'torch' or 'mpi'" in said


@pytest.mark.parametrize(("value", "found"), [("auto", "auto"), ("0", 0), ("90", 90), ("2.5", 2.5)])
def test_when_a_rank_hangs(write, value, found):
    assert load_config(write(), [f"train.hang_seconds={value}"]).train.hang_seconds == found
    assert load_config(write()).train.hang_seconds == "auto"


@pytest.mark.parametrize("value", ["-1", "never", "null", "true", "[60]", ".nan", ".inf"])
def test_no_time_after_which_a_rank_hangs(write, value):
    said = refused(write(), f"train.hang_seconds={value}")
    assert "train.hang_seconds" in said
    assert "expected auto, or a number of at least 0" in said
