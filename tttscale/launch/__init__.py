"""Jobs for batch systems: the verbs `tttscale launch ...`."""
