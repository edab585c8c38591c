"""Schedules in the simulator: beside an independent one, beside the real code, and what others would gain."""
