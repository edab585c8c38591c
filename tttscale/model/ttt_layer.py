"""The TTT layer: projections, rotary positions, inner learning rates, the scan, norm, gate, output.

Parameter names are those of the official checkpoints (ttt-lm-pytorch, `TTTBase`).
"""

import torch
from torch import Tensor, nn

from tttscale.kernels.precision import widened
from tttscale.kernels.scan import ttt_scan
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import Chunk, Edge, LayerEdges, Part
from tttscale.model.convolution import CausalInput
from tttscale.model.crossing import Crossing
from tttscale.model.layers import Layer, Rotary


class TTTLayer(Layer):
    """TTT-Linear or TTT-MLP over one chunk, [B, C, D] -> [B, C, D]."""

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        self.config = config
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
        inner = f if config.ttt_layer_type == "linear" else 4 * f
        self.W1 = nn.Parameter(torch.empty(heads, f, inner))
        self.b1 = nn.Parameter(torch.zeros(heads, 1, inner))
        if config.ttt_layer_type == "mlp":
            self.W2 = nn.Parameter(torch.empty(heads, inner, f))
            self.b2 = nn.Parameter(torch.zeros(heads, 1, f))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)
        self.rotary = Rotary(f, config.mini_batch_size, config.rope_theta)
        self.inner_lr_scale = 1.0
        """Multiplier of the inner learning rate (its warm-up; 1 otherwise)."""

    def forward(self, h: Tensor, chunk: Chunk, edges: LayerEdges) -> Tensor:
        """h: the normed input [B, C, D]."""
        of = self._projections(h)
        turns = self.rotary.tables(h)
        if self.config.share_qk:
            q, k = self._convolved(of["q_proj"], turns, chunk, edges["qk_conv"])
        else:
            heads = (self._heads(of[name]) for name in ("q_proj", "k_proj"))
            q, k = (self.operators.rotary(x, *turns) for x in heads)
        v, rates = self._heads(of["v_proj"]), self._learning_rates(of["rates"], chunk)
        out = self._scan(q, k, v, rates, chunk, edges["state"])
        return self._output(out.flatten(2), of.get("g_proj"))

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
        self, qk: Tensor, turns: tuple[Tensor, Tensor], chunk: Chunk, edge: Edge
    ) -> tuple[Tensor, Tensor]:
        shared = CausalInput(qk, self.config.conv_kernel, chunk, edge)
        filters = (p for conv in (self.conv_q, self.conv_k) for p in (conv.weight, conv.bias))
        return self.operators.queries_and_keys(shared.padded, shared.rows, *filters, *turns)

    def _learning_rates(self, logits: Tensor, chunk: Chunk) -> Tensor:
        """lambda [B, C, H] = base_lr / f * sigmoid(h w + c); zero on padding."""
        rates = torch.sigmoid(widened(logits) + widened(self.learnable_ttt_lr_bias[:, 0]))
        rates = rates * (self.inner_lr_scale * self.config.ttt_base_lr / self.config.head_dim)
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
        names = ("W1", "b1") if self.config.ttt_layer_type == "linear" else ("W1", "b1", "W2", "b2")
        return tuple(widened(getattr(self, name)).unsqueeze(0) for name in names)

    def _scan(
        self, q: Tensor, k: Tensor, v: Tensor, lr: Tensor, chunk: Chunk, edge: Edge
    ) -> Tensor:
        """q, k, v [B, C, H, f], lr [B, C, H] -> [B, C, H, f]; documents side by side."""
        initial = self._initial_state()
        state_bytes = sum(w.nbytes for w in initial)
        packing = chunk.packing(q, self.config.mini_batch_size, state_bytes)
        crossing = Crossing(edge, initial, len(q))
        # Widened once for all stacks, so that their gradients are summed before they are rounded.
        shared = self._token_idx(), widened(self.ttt_norm_weight), widened(self.ttt_norm_bias)
        tokens = [packing.apart(x) for x in (q, k, v)] + [packing.apart(lr, nothing=True)]
        outs = []
        for stack, *parts in zip(packing.stacks, *tokens, strict=True):
            q, k, v, lr = (x.transpose(1, 2) for x in parts)
            out, _ = ttt_scan(
                self.config.ttt_layer_type,
                q,
                k,
                v,
                lr,
                *shared,
                crossing.enter(stack),
                mini_batch_size=self.config.mini_batch_size,
                handoff=crossing.handoff(stack),
            )
            outs.append(out.transpose(1, 2))
        crossing.close()
        return packing.together(outs)

    def _output(self, out: Tensor, gate: Tensor | None) -> Tensor:
        norm, run = self.post_norm, self.operators
        return run.linear(run.gated_norm(out, gate, norm.weight, norm.bias), self.o_proj.weight)
