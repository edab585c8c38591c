"""How a CPU run computes its fp32 products: measured once for a machine, kept in a file, agreed by all ranks.

The first verdict of a machine stands, so that all later runs have the same digits. It is kept for this
processor and torch in `$XDG_CACHE_HOME/tttscale` (default `~/.cache/tttscale`); the number of threads, and so
of ranks, does not enter. Where it cannot be kept, torch's own way is taken. A run that resumes takes
the way that it had (`KEY` in its checkpoint). `TTTSCALE_CPU_PRODUCTS` decides in place of all this.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tttscale.comm.mesh import Mesh
from tttscale.errors import LaunchError
from tttscale.files import open_new
from tttscale.kernels.ops import cpu_product
from tttscale.reading import read_json

VARIABLE = "TTTSCALE_CPU_PRODUCTS"
KEY = "fp32 products on CPUs"
"""The name under which a checkpoint keeps the way of its run, among its versions."""
_CHOICES = ("auto", *cpu_product.WAYS)
_SHAPES = ((1024, 128, 512), (512, 768, 768))
"""Products that are timed: tokens and the two dims of a weight."""
_GAIN = 1.1
"""The factor by which oneDNN must be faster, so that noise does not decide."""
_ROUNDS = 5
_LARGEST_BYTES = 1 << 16
_CPUINFO = Path("/proc/cpuinfo")


def choose(mesh: Mesh, folder: Path | None = None, before: str | None = None) -> str:
    """Choose for all ranks; every rank calls this. Rank 0 decides; oneDNN needs all ranks to have it.

    Args:
        mesh: all ranks.
        folder: where verdicts are kept; None: this user's cache.
        before: the way of the run until it was stopped, if it resumes and that is known.

    Returns:
        The choice and its reason, for the console.

    Raises:
        LaunchError: the variable has an unknown value, or asks for a way that a rank does not have.
    """
    asked = os.environ.get(VARIABLE) or "auto"
    if asked not in _CHOICES:
        raise LaunchError(
            f"{VARIABLE} = {asked!r:.40} in the environment: expected one of {', '.join(_CHOICES)}"
        )
    wish, why, missing = "torch", f"{VARIABLE}={asked}", cpu_product.why_not()
    if mesh.rank == 0:
        if asked != "auto":
            wish = asked
        elif before in cpu_product.WAYS:
            wish, why = str(before), "as this run has taken them"
        elif missing is None:
            wish, why = _verdict(folder or _folder())
    rows = mesh.gather([wish == "onednn", asked != "auto", missing is None])
    wanted, forced = rows[0, :2].bool().tolist()
    without = (rows[:, 2] == 0).nonzero().flatten().tolist()
    fault = (
        f"oneDNN's product {missing or f'fails a check on rank {without[0]}'}" if without else ""
    )
    if wanted and forced and fault:
        raise LaunchError(f"{VARIABLE}=onednn: {fault}. Set {VARIABLE}=auto or torch.")
    way = "onednn" if wanted and not fault else "torch"
    cpu_product.use(way)
    return f"fp32 products by {'oneDNN' if way == 'onednn' else 'torch'} ({fault or why})"


def as_version(model: nn.Module) -> dict[str, str]:
    """Return the entry of a checkpoint's versions; empty for a model on a GPU."""
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    return {KEY: cpu_product.used()} if is_on_cpu else {}


def _verdict(folder: Path) -> tuple[str, str]:
    """Return this machine's way and the reason."""
    key = _key()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"cpu_products-{name}.json"
    kept = _read(path)
    if kept is None:
        torch_seconds, onednn_seconds = measure()
        gain = torch_seconds / onednn_seconds
        way = "onednn" if gain >= _GAIN else "torch"
        _keep(path, {**key, "way": way, "gain": round(gain, 3)})
        kept = _read(path)  # of two runs that measure at once, both take the first one's
    if kept is None:
        return "torch", f"{folder} cannot keep a measurement; {VARIABLE}=onednn asks for oneDNN's"
    return kept[0], f"{kept[1]:.1f}x torch's speed when this machine was measured"


def measure() -> tuple[float, float]:
    """Time the products of a step, forward and backward; return seconds by torch and by oneDNN."""
    work, threads = [_work(*shape) for shape in _SHAPES], torch.get_num_threads()
    before, best = cpu_product.used(), dict.fromkeys(cpu_product.WAYS, float("inf"))
    torch.set_num_threads(1)  # one verdict for a machine, however many ranks share it
    try:
        for _ in range(_ROUNDS):
            for way in cpu_product.WAYS:
                cpu_product.use(way)
                began = time.perf_counter()
                for run in work:
                    run()
                best[way] = min(best[way], time.perf_counter() - began)
    finally:
        cpu_product.use(before)
        torch.set_num_threads(threads)
    return best["torch"], best["onednn"]


def _work(tokens: int, inner: int, outer: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(shape, generator=generator)
        for shape in ((tokens, inner), (outer, inner), (tokens, outer))
    )

    def run() -> None:
        cpu_product.product(x, weight.t())
        cpu_product.product(grad, weight)
        cpu_product.product(grad.t(), x)

    return run


def _key() -> dict[str, str]:
    """Return what the verdict depends on: processor and torch."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
    lines = _CPUINFO.read_text().split("\n\n")[0].splitlines() if _CPUINFO.exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    cpu = ";".join(v.strip() for k, v in facts.items() if k.strip() in wanted)
    return {"cpu": cpu, "torch": torch.__version__}


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:  # a user without a home, as in many containers
            cache = Path("/nonexistent")
    return cache / "tttscale"


def _read(path: Path) -> tuple[str, float] | None:
    """Read way and gain; None if there is no such file, or it is not one of ours."""
    if path.is_symlink():
        return None
    try:
        found = read_json(path, error=LaunchError, advice="", limit_bytes=_LARGEST_BYTES)
        way, gain = found["way"], float(found["gain"])
    except (LaunchError, ValueError, KeyError, TypeError):
        return None
    return (way, gain) if way in cpu_product.WAYS else None


def _keep(path: Path, verdict: dict[str, str | float]) -> None:
    """Write the file unless another run was first; a damaged one is replaced, a link is not followed."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_new(partial) as file:
                file.write(json.dumps(verdict).encode())
            try:
                os.link(partial, path, follow_symlinks=False)
            except FileExistsError:
                if _read(path) is None and not path.is_symlink():
                    partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError:
        return
