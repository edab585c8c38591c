"""One trained run for all tests of exports."""

from tests.generate.conftest import trained_run

__all__ = ["trained_run"]
