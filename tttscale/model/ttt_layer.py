"""The TTT layers: projections, rotary positions, inner learning rates, the scan, norm, gate, output.

Parameter names are those of the official checkpoints (ttt-lm-pytorch, `TTTBase`).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.one_token import one_token
from tttscale.kernels.ops.pointwise import turned
from tttscale.kernels.precision import widened
from tttscale.kernels.scan import ttt_scan
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import WHOLE, Chunk
from tttscale.model.convolution import CausalInput, convolved, window
from tttscale.model.decode_state import SUMS, HeldPorts, Parts
from tttscale.model.device import to_device
from tttscale.model.initial_values import convolution
from tttscale.model.layers import Rotary
from tttscale.model.ports import Carried, CarryPort, LayerPorts, Part
from tttscale.model.sequence_layer import Mixer
from tttscale.model.state_exchange import StateExchange

_ZERO_AT_FIRST = {
    *("learnable_ttt_lr_bias", "learnable_token_idx", "ttt_norm_bias", "b1", "b2"),
    "post_norm.bias",
}


class ScanInputs(NamedTuple):
    """What an inner learner is fitted to in one scan, and from which weights."""

    k: Tensor
    """[B, H, C, f]."""
    v: Tensor
    """[B, H, C, f]."""
    lr: Tensor
    """[B, H, C]."""
    token_idx: Tensor
    """[K]."""
    norm_weight: Tensor
    """[H, f]."""
    norm_bias: Tensor
    """[H, f]."""
    state: Part
    """The inner weights in front of the first token, [B, H, ...]."""
    initial: Part
    """The inner weights in which a document begins, [1, H, ...]."""


ScanWatch = Callable[[ScanInputs, Chunk], None]
"""Takes the inputs of a scan, and the chunk; documents that start inside are rows of their own."""


class TTTLayer(Mixer):
    """TTT-Linear or TTT-MLP over one chunk, [B, C, D] -> [B, C, D]."""

    class Options(Mixer.Options):
        """Fields of `model.options.ttt-linear` and `.ttt-mlp`."""

        base_lr: float | None = Field(None, gt=0, allow_inf_nan=False, strict=True)
        """Base learning rate of the inner learner; null = model.ttt_base_lr."""

    kind: ClassVar[str]
    """The inner learner, linear or mlp."""

    def __init__(self, config: TTTConfig, options: Any) -> None:
        super().__init__(config, options)
        self.base_lr = config.ttt_base_lr if options.base_lr is None else options.base_lr
        width, heads, f = config.hidden_size, config.num_attention_heads, config.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        if not config.share_qk:
            self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        if config.use_gate:
            self.g_proj = nn.Linear(width, width, bias=False)
        if config.share_qk:
            self.conv_q = nn.Conv1d(width, width, config.conv_kernel, groups=width)
            self.conv_k = nn.Conv1d(width, width, config.conv_kernel, groups=width)
        self.learnable_ttt_lr_weight = nn.Parameter(torch.empty(heads, 1, width))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(heads, 1))
        self.learnable_token_idx = nn.Parameter(torch.zeros(config.mini_batch_size))
        self.ttt_norm_weight = nn.Parameter(torch.ones(heads, f))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(heads, f))
        for name, shape in LEARNERS[self.kind].shapes(f).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(heads, *shape)))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)
        self.rotary = Rotary(f, config.mini_batch_size, config.rope_theta)
        self.inner_lr_scale = 1.0
        """Multiplier of the inner learning rate (its warm-up; 1 otherwise)."""
        self.watch: ScanWatch | None = None
        """Is shown what the inner learner is fitted to."""

    @classmethod
    def alignment(cls, config: TTTConfig, options: Any) -> int:
        """Inner gradient steps are taken at whole mini-batches."""
        return config.mini_batch_size

    def carry(self, batch: int, tokens: int) -> dict[str, Carried]:
        """The last inputs of the shared convolution, and the inner weights (W1, b1[, W2, b2])."""
        heads, f = self.config.num_attention_heads, self.config.head_dim
        learner = LEARNERS[self.kind]
        names = tuple(learner.shapes(f))
        state = Carried(learner.state_shapes(batch, heads, f), names=names, has_heads=True)
        if not self.config.share_qk:
            return {"state": state}
        tail = (batch, self.config.conv_kernel - 1, self.config.hidden_size)
        return {"qk_conv": Carried((tail,)), "state": state}

    def reset(self, generator: Generator, init: str) -> None:
        """As the official code draws them (ttt-lm-pytorch `_init_weights`, or ttt-lm-jax)."""
        for name, parameter in self.named_parameters():
            if name.startswith("conv_"):
                convolution(parameter, name, self.config.conv_kernel, init, generator)
            elif name.endswith(("proj.weight", "learnable_ttt_lr_weight")) or name in ("W1", "W2"):
                parameter.normal_(0, self.config.initializer_range, generator=generator)
            elif name in ("post_norm.weight", "ttt_norm_weight"):
                parameter.fill_(1)
            elif name in _ZERO_AT_FIRST:
                parameter.zero_()

    def forward(self, h: Tensor, chunk: Chunk, ports: LayerPorts) -> Tensor:
        """h: the normed input [B, C, D]."""
        of = self._projections(h)
        turns = self.rotary.tables(h)
        if self.config.share_qk:
            q, k = self._convolved(of["q_proj"], turns, chunk, ports["qk_conv"])
        else:
            heads = (self._heads(of[name]) for name in ("q_proj", "k_proj"))
            q, k = (self.operators.rotary(x, *turns) for x in heads)
        v, rates = self._heads(of["v_proj"]), self._learning_rates(of["rates"], chunk)
        out = self._scan(q, k, v, rates, chunk, ports["state"])
        return self._output(out.flatten(2), of.get("g_proj"))

    def step(self, h: Tensor, positions: Sequence[int], held: Parts) -> tuple[Tensor, Parts]:
        """Read one token of every row with the sums of its open mini-batch; rows may stand anywhere."""
        places = [position % self.config.mini_batch_size for position in positions]
        at = _index(places, h.device)
        of, ports = self._projections(h), HeldPorts(held)
        q, k = self._turned(of, at, ports)
        v, tau = self._heads(of["v_proj"])[:, 0], self._token_idx()
        state = held.get("state") or tuple(
            w.expand(len(h), *w.shape[1:]).clone() for w in self._initial_state()
        )
        out, sums = one_token(
            self.kind,
            widened(q),
            widened(k),
            widened(v),
            self._learning_rates(of["rates"], WHOLE)[:, 0],
            tau[at],
            widened(self.ttt_norm_weight),
            widened(self.ttt_norm_bias),
            state,
            held.get(SUMS),
        )
        y = self._output(out.to(v.dtype).flatten(1).unsqueeze(1), of.get("g_proj"))
        ends = [place == self.config.mini_batch_size - 1 for place in places]
        return y, ports.sent() | _closed(state, sums, tau[-1], ends)

    def _turned(self, of: dict[str, Tensor], at: Any, ports: HeldPorts) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, H, f] of one token of each row, by its place `at` in a mini-batch."""
        dtype = of["q_proj"].dtype
        if self.config.share_qk:
            inputs = window(of["q_proj"], self.config.conv_kernel, ports["qk_conv"])
            both = [self._heads(convolved(inputs, conv)) for conv in (self.conv_q, self.conv_k)]
        else:
            both = [widened(self._heads(of[name])[:, 0]) for name in ("q_proj", "k_proj")]
        cos, sin = (table[at].unsqueeze(1) for table in self.rotary.tables(of["q_proj"]))
        q, k = turned(torch.stack(both), cos, sin).to(dtype).unbind()
        return q, k

    def _projections(self, h: Tensor) -> dict[str, Tensor]:
        """What each projection of this layer makes of h, and the rates' logits [B, C, H]."""
        names = [n for n in ("q_proj", "k_proj", "v_proj", "g_proj") if hasattr(self, n)]
        weights = [getattr(self, name).weight for name in names]
        found = self.operators.linear(h, *weights, self.learnable_ttt_lr_weight[:, 0])
        return dict(zip([*names, "rates"], found, strict=True))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, C, D] -> [B, C, H, f]."""
        return x.unflatten(-1, (self.config.num_attention_heads, -1))

    def _convolved(
        self, qk: Tensor, turns: tuple[Tensor, Tensor], chunk: Chunk, port: CarryPort
    ) -> tuple[Tensor, Tensor]:
        shared = CausalInput(qk, self.config.conv_kernel, chunk, port)
        filters = (p for conv in (self.conv_q, self.conv_k) for p in (conv.weight, conv.bias))
        return self.operators.queries_and_keys(shared.padded, shared.rows, *filters, *turns)

    def _learning_rates(self, logits: Tensor, chunk: Chunk) -> Tensor:
        """lambda [B, C, H] = base_lr / f * sigmoid(h w + c); zero on padding."""
        rates = torch.sigmoid(widened(logits) + widened(self.learnable_ttt_lr_bias[:, 0]))
        rates = rates * (self.inner_lr_scale * self.base_lr / self.config.head_dim)
        if chunk.padded is not None:
            rates = rates.masked_fill(chunk.padded.unsqueeze(-1), 0)
        return rates

    def _token_idx(self) -> Tensor:
        """tau [K] = max(1/(i+1) + learnable, 0)."""
        tau = widened(self.learnable_token_idx)
        steps = torch.arange(1, len(tau) + 1, device=tau.device, dtype=tau.dtype)
        return (1 / steps + tau).clamp(min=0)

    def _initial_state(self) -> Part:
        """The learned state in which a document begins, [1, H, ...], in the dtype of states."""
        names = LEARNERS[self.kind].shapes(self.config.head_dim)
        return tuple(widened(getattr(self, name)).unsqueeze(0) for name in names)

    def _scan(
        self, q: Tensor, k: Tensor, v: Tensor, lr: Tensor, chunk: Chunk, port: CarryPort
    ) -> Tensor:
        """q, k, v [B, C, H, f], lr [B, C, H] -> [B, C, H, f]; documents side by side."""
        initial = self._initial_state()
        state_bytes = sum(w.nbytes for w in initial)
        packing = chunk.packing(q, self.config.mini_batch_size, state_bytes)
        exchange = StateExchange(port, initial, len(q))
        # Widened once for all scans, so that their gradients are summed before they are rounded.
        shared = self._token_idx(), widened(self.ttt_norm_weight), widened(self.ttt_norm_bias)
        tokens = [packing.pack(x) for x in (q, k, v)] + [packing.pack(lr, zero_filler=True)]
        outs = []
        for rows, *packed in zip(packing.scans, *tokens, strict=True):
            q, k, v, lr = (x.transpose(1, 2) for x in packed)
            state = exchange.recv_state(rows)
            if self.watch is not None:
                self.watch(ScanInputs(k, v, lr, *shared, state, initial), chunk)
            out, _ = ttt_scan(
                self.kind,
                q,
                k,
                v,
                lr,
                *shared,
                state,
                mini_batch_size=self.config.mini_batch_size,
                hooks=exchange.hooks(rows),
            )
            outs.append(out.transpose(1, 2))
        exchange.finish_forward()
        return packing.unpack(outs)

    def _output(self, out: Tensor, gate: Tensor | None) -> Tensor:
        norm, run = self.post_norm, self.operators
        return run.linear(run.gated_norm(out, gate, norm.weight, norm.bias), self.o_proj.weight)


def _index(places: Sequence[int], device: torch.device) -> slice | Tensor:
    """What takes the rows at these places out of a table; nothing is copied where all are the same."""
    if len(set(places)) == 1:
        return slice(places[0], places[0] + 1)
    return to_device(torch.tensor(list(places)), device)


def _closed(state: Part, sums: Part, tau: Tensor, ends: Sequence[bool]) -> Parts:
    """State and sums; in the rows that end a mini-batch the weights after it, and zeros."""
    if not any(ends):
        return {"state": state, SUMS: sums}
    if all(ends):
        return {"state": tuple(w - tau * a for w, a in zip(state, sums, strict=True))}
    closes = to_device(torch.tensor(list(ends)), tau.device)[:, None, None, None]
    after = (torch.where(closes, w - tau * a, w) for w, a in zip(state, sums, strict=True))
    return {"state": tuple(after), SUMS: tuple(a.masked_fill(closes, 0) for a in sums)}


class TTTLinear(TTTLayer):
    """The inner learner is linear (paper, section 2.7)."""

    kind = "linear"


class TTTMLP(TTTLayer):
    """The inner learner is a two-layer perceptron (paper, section 2.7)."""

    kind = "mlp"
