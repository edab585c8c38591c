"""GPUs and Triton's kernels on them."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from tttscale.cluster.ranks import Ranks
from tttscale.doctor.findings import Finding, ok, problem, warning
from tttscale.kernels.scan import choose_backend, ttt_scan
from tttscale.observe import human
from tttscale.packages import one_line

_SHAPES = Path(__file__).parents[1] / "kernels" / "README.md"


def gpus(ranks: Ranks, device: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The GPUs of this host, for the ranks of this host.

    Args:
        ranks: this process's place.
        device: `train.device`.
        environ: the environment.
    """
    count = torch.cuda.device_count()
    if count == 0:
        yield from _no_gpu(device)
        return
    properties = [torch.cuda.get_device_properties(i) for i in range(count)]
    kinds = Counter(f"{p.name}, {human(p.total_memory, 1024)}B" for p in properties)
    yield ok("GPUs: " + "; ".join(f"{n} x {kind}" for kind, n in kinds.items()))
    if device != "cpu" and ranks.local_world_size > count:
        yield problem(
            f"{ranks.local_world_size} ranks on this host, and {count} GPU(s)",
            "Start one rank per GPU, or set train.device=cpu",
        )
    if environ.get("CUDA_DEVICE_MAX_CONNECTIONS") == "1":
        yield warning(
            "CUDA_DEVICE_MAX_CONNECTIONS=1 lets carries wait for the compute before them",
            "unset CUDA_DEVICE_MAX_CONNECTIONS",
        )


def triton(
    kind: str, head_dim: int, mini_batch_size: int, precision: torch.dtype
) -> Iterator[Finding]:
    """Whether Triton's kernels can run the scan; on a GPU by running it.

    Args:
        kind: of the inner learner.
        head_dim: features of a head.
        mini_batch_size: tokens of a mini-batch.
        precision: of the tokens.
    """
    on_gpu = torch.cuda.device_count() > 0
    device = torch.device("cuda" if on_gpu else "cpu")
    chosen = choose_backend("auto", kind, device, head_dim, mini_batch_size, precision)
    if not on_gpu:
        yield ok(f"scan: torch, as Triton's kernels {chosen.missing}")
    elif chosen.missing is not None:
        yield warning(
            f"scan: torch, which is slower, as Triton's kernel {chosen.missing}",
            f"The shapes that have one: {_SHAPES}",
        )
    else:
        try:
            _run_scan(kind, head_dim, mini_batch_size, precision, device)
        except Exception as error:  # compilers and drivers raise what they like
            yield problem(
                f"Triton's kernels do not run here ({one_line(error)})",
                "Does the driver fit torch, is there a C compiler, and can ~/.triton be written?",
            )
        else:
            yield ok(f"scan: Triton's kernels run ({kind}, head dim {head_dim}, {precision})")


def _no_gpu(device: str) -> Iterator[Finding]:
    if device == "cuda":
        yield problem("train.device = cuda, and torch finds no GPU", "Set train.device=auto or cpu")
    elif shutil.which("nvidia-smi"):
        yield warning(
            f"nvidia-smi is here, but torch {torch.__version__} finds no GPU: runs compute on CPUs",
            "Install a torch for CUDA whose version the driver supports, or look at CUDA_VISIBLE_DEVICES",
        )
    else:
        yield ok("no GPU: runs compute on CPUs")


def _run_scan(kind: str, dim: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """One head, one mini-batch."""
    from tttscale.kernels.learners import LEARNERS

    def filled(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a tensor of small equal numbers."""
        return torch.full(shape, 0.01, dtype=dtype, device=device)

    q, k, v = (filled(1, 1, size, dim, dtype=dtype) for _ in range(3))
    state = tuple(filled(*shape) for shape in LEARNERS[kind].state_shapes(1, 1, dim))
    index = 1 / torch.arange(1, size + 1, device=device, dtype=torch.float32)
    out, _ = ttt_scan(
        kind,
        q,
        k,
        v,
        filled(1, 1, size),
        index,
        filled(1, dim),
        filled(1, dim),
        state,
        mini_batch_size=size,
        backend="triton",
    )
    if not bool(out.isfinite().all()):
        raise ArithmeticError("a scan of small numbers is not finite")
