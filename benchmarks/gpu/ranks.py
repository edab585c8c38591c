"""Two sequence ranks, threads on one device, held against one rank bit for bit; a row of JSON for each case.

Run as `python -m benchmarks.gpu.ranks KIND DEVICE [LAYOUT DTYPE]`. A small model with heads of 64 goes
forward and back through the sweeps once with one rank and once with two. Losses, every state that is sent
and every gradient of one have to have the same bits; gradients of parameters are sums over ranks, and
their distance is reported. NCCL refuses two ranks on one GPU, threads do not.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.step import RandomSequence
from tttscale.bench import report
from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.model.architecture import TTTConfig
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.ports import Part
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.ports import CarryRouter
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.sweep import Sweeps

_SIZES = {"cuda": (512, 4, 64, 512), "cpu": (32, 2, 16, 32)}
"""Width, layers, head dim, tokens of a chunk."""
_CHUNKS = 6
_RANKS = 2
_PATIENCE_SECONDS = 300.0
"""How long a rank waits for its neighbour, which may have kernels to compile."""
_DTYPES = {"fp32": None, "bf16": torch.bfloat16}


@dataclass
class Step:
    """Results of one step, over all ranks."""

    losses: Tensor
    grads: dict[str, Tensor]
    messages: dict[CarryKey, Part]
    """All that chunks sent, to another rank or to their own."""


@contextmanager
def recorded() -> Iterator[dict[CarryKey, Part]]:
    """Keep a copy of what chunks send."""
    kept: dict[CarryKey, Part] = {}
    send = CarryRouter.send

    def sending(self: CarryRouter, key: CarryKey, target: int | None, part: Part) -> None:
        """Keep a copy, and send."""
        if target is not None:
            kept[key] = tuple(t.detach().clone() for t in part)
        send(self, key, target, part)

    CarryRouter.send = sending
    try:
        yield kept
    finally:
        CarryRouter.send = send


def config_of(kind: str, device: str) -> TTTConfig:
    """A small model of the paper's backbone."""
    width, layers, dim, _ = _SIZES[device]
    return TTTConfig.model_validate(
        {
            "vocab_size": 256,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // dim,
            "ttt_layer_type": kind,
            "ttt_base_lr": 1.0 if kind == "linear" else 0.1,
            "share_qk": True,
            "use_gate": True,
            "pre_conv": True,
        }
    )


def step(kind: str, device: str, ranks: int, layout: Kind, autocast: torch.dtype | None) -> Step:
    """One step of the same model on the same tokens, over so many ranks."""
    config, chunk = config_of(kind, device), _SIZES[device][3]
    tokens = _CHUNKS * chunk - chunk // 2  # the last one is short
    split = Layout(layout, tokens, chunk, ranks)
    groups = [[RandomSequence(tokens, config.vocab_size)]]

    def rank(transport: ThreadTransport) -> tuple[Any, dict[str, Tensor]]:
        """One rank's losses and gradients."""
        # All graphs of a process share one autograd thread per GPU. There a rank that waits for its
        # neighbour's gradient would hold up the neighbour for ever, so each goes back in its own thread.
        with torch.autograd.set_multithreading_enabled(False):
            model = TTTForCausalLM(config).to(device)
            sweeps = Sweeps(model, split, transport, keep=ActivationPolicy(1), autocast=autocast)
            sweeps.forward(groups)
            losses = sweeps.backward()
            return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    with recorded() as messages:
        results = ThreadWorld(ranks, _PATIENCE_SECONDS).run(rank)
    losses = results[0][0]
    losses.load(sum(of_rank[0].flat() for of_rank in results))
    names = results[0][1]
    grads = {name: sum_of([of_rank[1].get(name) for of_rank in results]) for name in names}
    return Step(losses.sums.clone(), grads, dict(messages))


def sum_of(tensors: list[Tensor | None]) -> Tensor:
    """Sum the ranks' gradients in fp64."""
    return torch.stack([t.double() for t in tensors if t is not None]).sum(0)


def compare(kind: str, device: str, layout: Kind, dtype: str) -> dict[str, Any]:
    """One rank beside two."""
    one = step(kind, device, 1, layout, _DTYPES[dtype])
    two = step(kind, device, _RANKS, layout, _DTYPES[dtype])
    found = {
        phase: [
            message
            for message, part in one.messages.items()
            if message.phase is phase and not _equal(part, two.messages[message])
        ]
        for phase in Phase
    }
    distance = max(
        float((two.grads[name] - grad).norm() / grad.norm().clamp(min=1e-30))
        for name, grad in one.grads.items()
    )
    losses = torch.equal(one.losses, two.losses)
    states, back = found[Phase.FORWARD], found[Phase.BACKWARD]
    finite = bool(torch.isfinite(one.losses).all())
    return {
        "inner": kind,
        "dtype": dtype,
        "layout": layout,
        "chunks": _CHUNKS,
        "messages": len(one.messages),
        "same_losses": losses,
        "different_states": [str(message) for message in states[:3]],
        "different_state_gradients": [str(message) for message in back[:3]],
        "gradient_distance": distance,
        "same_gradients": all(torch.equal(two.grads[n], g) for n, g in one.grads.items()),
        "ok": losses and finite and not states and not back,
    }


def _equal(a: Part, b: Part) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    words = sys.argv[1:]
    cases = [("striped", "bf16"), ("striped", "fp32"), ("contiguous", "bf16")]
    for cut_as, narrow in [(words[2], words[3])] if len(words) > 3 else cases:
        report.emit(compare(words[0], words[1], cut_as, narrow))  # type: ignore
