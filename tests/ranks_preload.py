"""Imported once by the fork server, so that ranks and commands start quickly; no thread may start here."""

import contextlib
import importlib
import io
import os
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as `tttscale train` does; OpenMP reads it once

NAMES = (
    *("tttscale.cli", "tttscale.train.main", "tttscale.observe", "torch.distributed"),
    *("zarr", "matplotlib.backends.backend_agg", "pytest"),
    # What a first step imports, two seconds of each rank: autograd, then the optimizer.
    *("torch.fx.experimental.symbolic_shapes", "torch._dynamo"),
)

for name in NAMES:
    importlib.import_module(name)

if not any(Path("/dev").glob("nvidia[0-9]*")):  # it looks at the devices, which no fork survives
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module("deepspeed")
        hasattr(importlib.import_module("deepspeed.ops"), "__compatible_ops__")  # found out once
