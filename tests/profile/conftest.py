"""A store, and the configuration of a run on it."""

from tests.train.conftest import folder  # noqa: F401
