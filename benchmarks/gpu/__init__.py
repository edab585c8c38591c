"""Rounds on a GPU: checks and times, each within a deadline and from the source tree alone."""
