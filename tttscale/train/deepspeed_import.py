"""The only file that imports DeepSpeed: for the run's device, quiet, without torch's compiler."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from tttscale.errors import LaunchError
from tttscale.packages import needed


def import_deepspeed(device_type: str = "cpu") -> Any:
    """Import DeepSpeed for the run's device and its process group, which must be there.

    Args:
        device_type: "cpu" or "cuda", where the run computes.

    Raises:
        LaunchError: it is not installed, or cannot be loaded.
    """
    deepspeed = load_deepspeed(device_type)
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed


def load_deepspeed(device_type: str = "cpu") -> Any:
    """Import DeepSpeed without its banner and without compiling anything.

    Args:
        device_type: "cpu" or "cuda", where the run computes.

    Raises:
        LaunchError: it is not installed, or cannot be loaded.
    """
    _choose_accelerator(device_type)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    remedy = "Install it again: pip install --force-reinstall --no-deps deepspeed"
    loading = needed("deepspeed", "training", remedy, LaunchError)
    with quiet(), _uncompiled(), loading:
        import deepspeed
        import deepspeed.ops

        # `initialize` asks whether the optimizer is Muon, and Muon's file wants to be compiled.
        with contextlib.suppress(ImportError):
            import deepspeed.runtime.zero.muon.muon_optimizer

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch is about to retire.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # On a CPU it would compile a shared-memory all-reduce at first use; gloo does here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _choose_accelerator(device_type: str) -> None:
    """Tell DeepSpeed where the run computes: a host may have a GPU that the run does not use."""
    os.environ["DS_ACCELERATOR"] = device_type
    known: Any = sys.modules.get("deepspeed.accelerator.real_accelerator")
    if known is None or known.ds_accelerator is None:
        return
    if known.ds_accelerator.device_name() != device_type:
        known.ds_accelerator = None  # it was imported for another device before
        known.get_accelerator()


def leave_dynamo_out(optimizer: type[torch.optim.Optimizer]) -> None:
    """Let an optimizer's methods run without importing torch's compiler.

    Each of them is marked as not to be compiled. On its first call it would import the whole compiler only
    for that (a second of a process's start), and keep the result as the function's `__dynamo_disable`. Here
    that is the function itself.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Let torch.compile return functions as they are: DeepSpeed decorates some, and none is called here.

    To decorate one, torch would import its whole compiler, a second of each process's start.
    """
    plain = torch.compile

    def as_it_stands(function: Any = None, **_: Any) -> Any:
        return as_it_stands if function is None else function

    torch.compile = as_it_stands  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.compile = plain


@contextlib.contextmanager
def quiet() -> Any:
    """Drop what DeepSpeed prints; errors come as exceptions."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
