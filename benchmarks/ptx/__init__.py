"""Compiled kernels without a GPU: their PTX run on the CPU, all threads of a block in lockstep.

README.md says what is found here and what is not.
"""
