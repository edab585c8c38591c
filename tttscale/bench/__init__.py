"""Measurements as commands: each runs in fresh processes and writes a report with its circumstances."""
