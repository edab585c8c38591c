"""The tiny trained run of tests/generate."""

from tests.generate.conftest import trained_run

__all__ = ["trained_run"]
