"""Gradients are told of once they are final, in one order on all ranks, and before the sweep is over."""

import numpy as np
import pytest
import torch

from tests.scan.helpers import random_tokens, tiny_config, tiny_model
from tttscale.comm.threads import ThreadWorld
from tttscale.errors import MixerError
from tttscale.scan.final_gradients import FinalGradients, parameter_groups
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import ChunkTask, Phase
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.sweep import Sweeps
from tttscale.scan.timeline import Run

RANDOM = 24


def told(config, layout, keep, batch):
    """By rank: groups in the order in which they were told, whether during a backward, and whether final."""
    groups = [
        [random_tokens(layout.length_tokens, seed=m * batch + b) for b in range(batch)]
        for m in range(layout.sequences)
    ]

    def rank(transport):
        model = tiny_model(config, torch.float32)
        sweeps = Sweeps(model, layout, transport, batch=batch, keep=ActivationPolicy(keep))
        final, inside, found = sweeps.final_gradients, [], []
        plain = sweeps.runner.backpropagate

        def backpropagate(*arguments):
            inside.append(True)
            plain(*arguments)
            inside.pop()

        def sink(group):
            grads = [None if p.grad is None else p.grad.clone() for p in final.groups[group]]
            found.append((group, bool(inside), grads))

        sweeps.runner.backpropagate, final.sink = backpropagate, sink
        for _ in range(2):
            model.zero_grad()
            found.clear()
            sweeps.forward(groups)
            sweeps.backward()
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
        for group, _, grads in found:
            for grad, parameter in zip(grads, final.groups[group], strict=True):
                assert (grad is None) == (parameter.grad is None)
                assert grad is None or torch.equal(grad, parameter.grad), "it was not final"
        return [(group, early) for group, early, _ in found]

    return ThreadWorld(layout.ranks).run(rank)


def drawn(seed):
    rng = np.random.default_rng(seed)
    layers, ranks = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    sequences = int(
        rng.choice([m for m in (1, 2, 4) if m == 1 or ranks % m == 0 or m % ranks == 0])
    )
    chunks = int(rng.integers(1, 9))
    kind = str(rng.choice(["striped", "contiguous"]))
    if kind == "contiguous":
        chunks = max(chunks, ranks)
    config = tiny_config(
        str(rng.choice(["linear", "mlp"])),
        str(rng.choice(["mamba", "transformer"])),
        layers,
        tie_word_embeddings=bool(rng.integers(2)),
    )
    layout = Layout(kind, 8 * chunks - int(rng.integers(0, 2)) * 4, 8, ranks, sequences)
    keep = float(rng.choice([0, 0.5, 1, 1.5, 2.5, 99]))
    return config, layout, keep, int(rng.integers(1, 3))


@pytest.mark.parametrize("seed", range(RANDOM))
def test_gradients_are_final_when_told(seed):
    config, layout, keep, batch = drawn(seed)
    layers = config.num_hidden_layers
    for rank, found in enumerate(told(config, layout, keep, batch)):
        assert [group for group, _ in found] == list(range(layers + 2))
        early = [group for group, inside in found if inside]
        if not layout.own(rank):
            assert early == []
        elif layout.kind == "striped" and keep == int(keep):
            # All but the lowest layer, which ends with the task, and the rest.
            assert early == list(range(layers))


def test_each_parameter_is_in_one_group():
    for tied in (False, True):
        model = tiny_model(tiny_config(layers=3, tie_word_embeddings=tied))
        groups = parameter_groups(model)
        names = {p: name for name, p in model.named_parameters()}
        every = [names[p] for group in groups for p in group]
        assert sorted(every) == sorted(names.values())
        assert [names[p] for p in groups[-1]] == ["model.embed_tokens.weight"]
        head = ["model.norm.weight", *([] if tied else ["lm_head.weight"])]
        assert [names[p] for p in groups[0]] == head
        for layer, group in zip((2, 1, 0), groups[1:-1], strict=True):
            assert all(names[p].startswith(f"model.layers.{layer}.") for p in group)


def watched():
    final = FinalGradients(tiny_model(tiny_config(layers=2)))
    seen = []
    final.sink = seen.append
    task = ChunkTask(Phase.FORWARD, 0, 0, range(2))
    sweep = final.backward(StepPlan(True, (task,), frozenset({task})))
    assert next(sweep) == (Run.BACKWARD, task)
    return final, sweep, seen


def give(group):
    sum(p.sum() for p in group).backward()


def test_a_group_is_final_with_the_first_gradient_of_the_next():
    """Not all parameters have a gradient on all ranks: an initial state's only comes from a first chunk."""
    final, sweep, seen = watched()
    give(final.groups[0])
    assert seen == []
    give(final.groups[1][1:])
    assert seen == [0]
    give(final.groups[2][:1])
    assert seen == [0, 1]
    assert list(sweep) == []
    assert seen == [0, 1, 2, 3]


def test_a_gradient_that_comes_too_late_is_an_error():
    final, _, seen = watched()
    for group in final.groups[:3]:
        give(group)
    assert seen == [0, 1]
    with pytest.raises(MixerError, match="came after the backward had left its layer"):
        give(final.groups[1])


def test_a_sweep_that_fails_leaves_no_hook_and_tells_nothing_more():
    final, sweep, seen = watched()
    give(final.groups[0])
    sweep.close()
    assert seen == []
    assert not any(p._post_accumulate_grad_hooks for group in final.groups for p in group)
