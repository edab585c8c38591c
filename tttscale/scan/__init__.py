"""The heart: which rank owns which chunk, the carry between chunks, the forward and backward sweeps.

Read in this order: layout, schedule, carry, transport, edges, sweep.
"""
