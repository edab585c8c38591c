"""Compiled kernels without a GPU: their PTX run on the CPU, all threads of a block in lockstep.

Between Triton's interpreter, which knows nothing of threads, and a GPU. What is found here: results that
layouts, conversions or tensor-core operands make wrong; warps that meet in memory without a barrier, or
without the fence that tensor cores need; accesses out of bounds, misaligned, or of shared memory that was
never written. What is not: lanes of one warp that meet, a missing wgmma.fence, the last step from PTX to
machine code, and anything about time.
"""
