"""Imported once by the fork server, so that ranks start quickly."""

import torch  # noqa: F401

import tttscale.train.main  # noqa: F401
