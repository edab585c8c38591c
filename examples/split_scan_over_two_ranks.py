"""Split one TTT scan over two ranks, forward and backward, and compare every bit with a single rank.

    python examples/split_scan_over_two_ranks.py

The ranks are threads. Rank 0 has the first half of the tokens and sends its state; rank 1 has the second half
and sends back the gradient of what it received. That is all that makes a TTT layer sequence parallel
(context parallel).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.kernels.scan import ttt_scan
from tttscale.model import Carried
from tttscale.scan.schedule import CarryKey, Phase

H, T, F, K = 2, 4096, 32, 16  # heads, tokens, features, tokens of a mini-batch
CARRIED = Carried(((1, H, F, F), (1, H, 1, F)))  # the state: W and b, fp32
STATE = CarryKey(Phase.FORWARD, sequence=0, boundary=0, layer=0, part="state")
GRAD = CarryKey(Phase.BACKWARD, sequence=0, boundary=0, layer=0, part="state")

random = torch.Generator().manual_seed(0)
TOKENS = {name: torch.randn(1, H, T, F, generator=random) for name in "qkv"}
TOKENS["lr"] = torch.rand(1, H, T, generator=random) / F
SHARED = {"token_idx": 1 / torch.arange(1.0, K + 1), "mini_batch_size": K}
SHARED |= {"norm_weight": torch.ones(H, F), "norm_bias": torch.zeros(H, F)}
NAMES = ("outputs", *(f"gradient of {name}" for name in TOKENS))
START = tuple(0.1 * torch.randn(shape, generator=random) for shape in CARRIED.shapes)


def chunk(begin: int, end: int) -> dict[str, Tensor]:
    """Tokens of one chunk, as leaves that get gradients."""
    return {name: t[:, :, begin:end].clone().requires_grad_() for name, t in TOKENS.items()}


def grads(leaves: Iterable[Tensor]) -> tuple:
    """What backward left in them."""
    return tuple(leaf.grad for leaf in leaves)


def run_half(transport: ThreadTransport) -> list:
    """y, carry_out = layer(x, carry_in) on this rank's half; its outputs and its tokens' gradients."""
    if transport.rank == 0:
        x = chunk(0, T // 2)
        out, state = ttt_scan("linear", **x, **SHARED, state=START)
        transport.isend(STATE, 1, state)  # send_state
        grad = transport.irecv(GRAD, 1, CARRIED).wait()  # recv_grad
        torch.autograd.backward([out.square().sum(), *state], [None, *grad])
    else:
        x = chunk(T // 2, T)
        received = transport.irecv(STATE, 0, CARRIED).wait()  # recv_state
        carry = tuple(part.requires_grad_() for part in received)
        out, _ = ttt_scan("linear", **x, **SHARED, state=carry)
        out.square().sum().backward()
        transport.isend(GRAD, 0, grads(carry))  # send_grad
    return [out.detach(), *grads(x.values())]


def main() -> None:
    """Compare two ranks with one that has all tokens in one call."""
    halves = ThreadWorld(2).run(run_half)
    x = chunk(0, T)
    out, _ = ttt_scan("linear", **x, **SHARED, state=START)
    out.square().sum().backward()
    whole = [out.detach(), *grads(x.values())]
    for name, one, first, second in zip(NAMES, whole, *halves, strict=True):
        assert torch.equal(one, torch.cat([first, second], dim=2)), name
        print(f"{name}: {one.numel():,} numbers, all bits equal")


if __name__ == "__main__":
    main()
