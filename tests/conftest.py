"""Triton kernels are interpreted in tests. Decided when triton is first imported, hence here."""

import os

import pytest

from tttscale import scrub

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def forgotten():
    """What one test has shown to be secret is not hidden in the messages of the next."""
    yield
    scrub._secrets.clear()
