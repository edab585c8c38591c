"""What the compiled Triton kernels need and do, read from their code: no GPU is needed."""
