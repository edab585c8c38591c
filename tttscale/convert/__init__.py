"""Weights in from other code, and out for other code: `tttscale import` and `tttscale export`."""
