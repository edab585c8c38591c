"""Split one TTT scan over two ranks, forward and backward, and compare every bit with a single rank.

    python examples/split_scan_over_two_ranks.py

The ranks are threads. Rank 0 has the first half of the tokens and sends its state; rank 1 has the second half
and sends back the gradient of what it received. That is all that makes a TTT layer sequence parallel
(context parallel).
"""

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
START = tuple(0.1 * torch.randn(shape, generator=random) for shape in CARRIED.shapes)


def scan(begin: int, end: int, carry: tuple) -> tuple[list[Tensor], Tensor, tuple]:
    """Return some tokens x, which get gradients, and the y and carry_out that the layer makes of them."""
    x = {name: t[:, :, begin:end].clone().requires_grad_() for name, t in TOKENS.items()}
    return list(x.values()), *ttt_scan("linear", **x, **SHARED, state=carry)


def run_half(transport: ThreadTransport) -> list[Tensor]:
    """This rank's half of the tokens: outputs, and the gradients of its tokens."""
    if transport.rank == 0:
        x, y, state = scan(0, T // 2, START)
        transport.isend(STATE, 1, state)  # send_state
        grad = transport.irecv(GRAD, 1, CARRIED).wait()  # recv_grad
        dx = torch.autograd.grad([y.square().sum(), *state], x, [None, *grad])
    else:
        state = transport.irecv(STATE, 0, CARRIED).wait()  # recv_state
        x, y, _ = scan(T // 2, T, tuple(part.requires_grad_() for part in state))
        *dx, dW, db = torch.autograd.grad(y.square().sum(), [*x, *state])
        transport.isend(GRAD, 0, (dW, db))  # send_grad
    return [y, *dx]


halves = ThreadWorld(2).run(run_half)
x, y, _ = scan(0, T, START)  # all tokens in one call
whole = [y, *torch.autograd.grad(y.square().sum(), x)]
names = ["outputs", *(f"gradient of {name}" for name in TOKENS)]
for name, one, first, second in zip(names, whole, *halves, strict=True):
    assert torch.equal(one, torch.cat([first, second], dim=2)), name
    print(f"{name}: {one.numel():,} numbers, all bits equal")
