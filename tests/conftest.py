"""Triton kernels are interpreted in tests. Decided when triton is first imported, hence here."""

import os

os.environ["TRITON_INTERPRET"] = "1"
