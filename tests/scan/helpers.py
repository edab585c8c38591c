"""Tiny models, in-memory sequences and the whole-pass answer that sweeps are compared with."""

from dataclasses import dataclass

import numpy as np
import torch

from tttscale.comm.threads import ThreadWorld
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

K = 4


def tiny_config(kind="linear", backbone="mamba", layers=2, **changes):
    mamba = backbone == "mamba"
    fields = dict(
        vocab_size=23,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        mini_batch_size=K,
        ttt_layer_type=kind,
        ttt_base_lr=1.0 if kind == "linear" else 0.1,
        share_qk=mamba,
        use_gate=mamba,
        pre_conv=mamba,
        initializer_range=0.3,
    )
    return TTTConfig(**{**fields, **changes})


def tiny_model(config, dtype=torch.float64, seed=0):
    model = TTTForCausalLM(config, seed=seed).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise.to(dtype))
    return model


@dataclass
class Tokens:
    ids: np.ndarray
    labels: np.ndarray
    starts: tuple = ()
    padded: np.ndarray | None = None

    def chunk(self, begin, end):
        inside = tuple(s - begin for s in self.starts if begin <= s < end)
        padded = None if self.padded is None else self.padded[begin:end]
        return Tokens(self.ids[begin:end], self.labels[begin:end], inside, padded)


def random_tokens(length, seed=0, vocab=23):
    generator = np.random.default_rng(seed)
    stream = generator.integers(0, vocab, length + 1)
    labels = stream[1:].copy()
    labels[generator.random(length) < 0.1] = -100
    return Tokens(stream[:-1].copy(), labels)


def whole_pass(model, sequences):
    """Summed loss of each sequence and the gradient of their total, without chunks or sweeps."""
    model.zero_grad(set_to_none=True)
    losses = []
    for tokens in sequences:
        x = model.embed(torch.from_numpy(tokens.ids)[None])
        for block in model.blocks:
            x = block(x)
        total, _ = model.head(x, torch.from_numpy(tokens.labels)[None])
        total.backward()
        losses.append(total.item())
    return losses, gradients(model)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def sweep(
    config, groups, *, ranks=1, chunk=8, kind="striped", keep=0, dtype=torch.float64, wrap=None
):
    """Run one step over thread ranks; returns losses [M, B] and summed gradients."""
    length, batch = len(groups[0][0].ids), len(groups[0])
    layout = Layout(kind, length, chunk, ranks, len(groups))

    def rank(transport):
        model = tiny_model(config, dtype)
        transport = wrap(transport) if wrap else transport
        sweeps = Sweeps(model, layout, transport, batch=batch, keep=ActivationPolicy(keep))
        sweeps.forward(groups)
        losses = sweeps.backward()
        return losses, gradients(model)

    results = ThreadWorld(ranks).run(rank)
    losses = results[0][0]
    losses.load(sum(r[0].flat() for r in results))
    total = {}
    for _, grads in results:
        for name, grad in grads.items():
            total[name] = total.get(name, 0) + grad
    return losses, total


def relative(a, b):
    return ((a - b).norm() / b.norm().clamp(min=1e-300)).item()
