"""A user's own sequence layer in one file: the gated delta rule (arXiv 2412.06464) in plain torch."""

import torch
from pydantic import Field
from torch import nn

from tttscale.model import Carried, Mixer, recv_state, send_state


class GatedDelta(Mixer):
    """S' = a S + b k (v - a S^T k)^T, out = S'^T q; S [f, f] of each head is the carry."""

    class Options(Mixer.Options):
        """Fields of `model.options`."""

        decay_bias: float = Field(2.0, ge=0)
        """Bias of the gate a = sigmoid(. + bias)."""

    def __init__(self, config, options):
        super().__init__(config, options)
        width, heads = config.hidden_size, config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gates = nn.Linear(width, 2 * heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def carry(self, batch, tokens):
        f = self.config.head_dim
        return {"memory": Carried(((batch, self.config.num_attention_heads, f, f),))}

    def reset(self, generator, init):
        for parameter in self.parameters():
            parameter.normal_(0, self.config.initializer_range, generator=generator)

    def forward(self, h, chunk, ports):
        wide = torch.promote_types(h.dtype, torch.float32)
        q, k, v = (
            x.unflatten(-1, (self.config.num_attention_heads, -1)).to(wide)
            for x in self.qkv(h).chunk(3, dim=-1)
        )
        k = nn.functional.normalize(k, dim=-1)
        a, b = (self.gates(h).to(wide) + self.options.decay_bias).sigmoid().chunk(2, dim=-1)
        if chunk.padded is not None:
            b = b.masked_fill(chunk.padded.unsqueeze(-1), 0)
        (q, k, v, a, b), past = recv_state(ports["memory"], q, k, v, a, b)
        zeros = q.new_zeros(self.carry(len(h), 1)["memory"].shapes[0])
        memory, outs = zeros if past is None else past[0], []
        starts = {begin for begin, _ in chunk.cuts(h.shape[1])}
        for t in range(h.shape[1]):
            if t in starts:
                memory = chunk.renew(t, memory, zeros)
            memory = memory * a[:, t, :, None, None]
            error = v[:, t] - (memory * k[:, t, :, :, None]).sum(2)
            memory = memory + (b[:, t, :, None, None] * k[:, t, :, :, None]) * error[:, :, None]
            outs.append((memory * q[:, t, :, :, None]).sum(2))
        y = send_state(ports["memory"], torch.stack(outs, dim=1), (memory,))
        return self.out(y.flatten(2).to(h.dtype))
