"""Measurements for developers: run from the source tree, never installed. See README.md."""
