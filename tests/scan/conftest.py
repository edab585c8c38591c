"""Kernels are interpreted here."""

from tests.quick_interpreter import install

install()
