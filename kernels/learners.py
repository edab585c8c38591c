"""The inner learners: what a scan carries for each of them, and which classes compute it.

Everything that depends on the learner asks this file, so that a third one is a new file (torch_scan/NAME.py)
and a new line (`LEARNERS`). It may do without Triton; with it, it has a folder of kernels
(triton_scan/NAME/) and a row in each GPU's table of launches (triton_scan/launches/).

Nothing is imported before it is used: shapes are asked for where there is no torch, and a machine without a
GPU need not load Triton.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Shape = tuple[int, int]

PHASES = ("advance", "readout", "readout_backward", "advance_backward", "gradients")
"""Phases of a scan and of its backward, in the order in which they run; see README.md."""
SERIAL_PHASES = ("advance", "advance_backward")
"""Phases that go from mini-batch to mini-batch; all others are parallel over the tokens."""


@dataclass(frozen=True)
class Learner:
    """An inner learner f(x) = x + LN(f_res(x)), whose weights are the state of the scan."""

    name: str
    """As in `model.ttt_layer_type`, and the `kind` of `ttt_scan`."""
    shapes: Callable[[int], dict[str, Shape]]
    """Head dim f -> rows and columns of each inner weight of one head, in the order of a state."""
    torch: str
    """module:class below tttscale.kernels of the scan in plain torch, a `GroupScan`."""
    triton: str | None = None
    """module:class of the scan on Triton, a `TritonScan`; None if there is none."""
    triton_token: str | None = None
    """module:function of the Triton kernel for one token; None if there is none."""

    def state_shapes(self, rows: int, heads: int, dim: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of a state for `rows` sequences: [B, H, i, o] of each inner weight."""
        return tuple((rows, heads, *shape) for shape in self.shapes(dim).values())

    def floats(self, dim: int) -> int:
        """Numbers in the state of one head."""
        return sum(rows * columns for rows, columns in self.shapes(dim).values())

    def inner_width(self, dim: int) -> int:
        """I, the width of the first layer's output: f for TTT-Linear, 4f for TTT-MLP."""
        return next(iter(self.shapes(dim).values()))[1]

    def scan_class(self, backend: str) -> Any:
        """The class that runs the phases on "torch" or "triton"."""
        return self._named(self.triton if backend == "triton" else self.torch)

    def token_kernel(self) -> Any:
        """The Triton kernel for one token."""
        return self._named(self.triton_token)

    def _named(self, path: str | None) -> Any:
        assert path is not None, f"{self.name} has no such kernels"
        module, name = path.split(":")
        return getattr(import_module(f"tttscale.kernels.{module}"), name)


def _linear(f: int) -> dict[str, Shape]:
    return {"W1": (f, f), "b1": (1, f)}


def _mlp(f: int) -> dict[str, Shape]:
    return {"W1": (f, 4 * f), "b1": (1, 4 * f), "W2": (4 * f, f), "b2": (1, f)}


LEARNERS: dict[str, Learner] = {
    learner.name: learner
    for learner in (
        Learner(
            "linear",
            _linear,
            "torch_scan.linear:LinearScan",
            "triton_scan.linear.segment:TritonLinearScan",
            "triton_scan.linear.one_token:one_token_kernel",
        ),
        Learner(
            "mlp",
            _mlp,
            "torch_scan.mlp:MLPScan",
            "triton_scan.mlp.segment:TritonMLPScan",
            "triton_scan.mlp.one_token:one_token_kernel",
        ),
    )
}
"""All of them, by name."""
