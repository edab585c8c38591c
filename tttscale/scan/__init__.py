"""The heart: sequence parallel (context parallel) training. Which rank owns which chunk, the carry between
chunks, and the forward and backward sweeps.

Read in this order: layout, schedule, carry, transport, ports, chunk_runner, sweep.
"""
