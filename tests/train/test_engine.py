"""All ZeRO stages give the same parameters, with one reduction a step."""

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks, values
from tests.train.small import small_config
from tests.train.test_exactness import close_parameters, five_steps
from tttscale.comm import mesh as meshes
from tttscale.train.engine import Engine

STAGES = (0, 1, 2, 3)


def all_stages(ranks, precisions):
    results = {}
    for precision in precisions:
        for stage in STAGES:
            config = small_config(2, stage=stage, precision=precision)
            results[precision, stage] = five_steps(config, ranks)
    return results


@pytest.mark.parametrize(
    ("world", "precisions"), [(2, ("fp32", "bf16")), (4, ("fp32",))], ids=["alone", "replicas"]
)
def test_stages_agree(world, precisions):
    per_rank = values(run_ranks(all_stages, world, precisions))
    for results in per_rank:
        for precision in precisions:
            parameters, losses, norms = results[precision, 0]
            # bf16 casts turn a last-bit difference of a parameter into one of 2^-9 downstream, and Adam that
            # of a small gradient into a step; whether a cast is on the edge depends on the processor.
            each, whole = (1e-5, 1e-6) if precision == "fp32" else (3e-2, 1e-3)
            for stage in STAGES[1:]:
                close_parameters(results[precision, stage][0], parameters, each, whole)
                rounding = 1e-6 if precision == "fp32" else 1e-3
                assert results[precision, stage][1][0] == losses[0]  # before the first update
                assert results[precision, stage][1] == pytest.approx(losses, rel=rounding)
                found = results[precision, stage][2]
                assert found[0] == pytest.approx(norms[0], rel=1e-6)
                assert found == pytest.approx(norms, rel=1e-4 if precision == "fp32" else 3e-2)
    for name, value in per_rank[0]["fp32", 3][0].items():
        for other in per_rank[1:]:
            assert (other["fp32", 3][0][name] == value).all(), "ranks drifted apart"
    fp32, *bf16 = (per_rank[0][precision, 1][1][0] for precision in precisions)
    assert fp32 not in bf16
    assert bf16 == pytest.approx([fp32] * len(bf16), rel=0.02)


def engine_facts(ranks):
    """What the engine relies on in DeepSpeed, watched from outside."""
    facts = {}
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    for stage in STAGES:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        before = [p.detach().clone() for p in model.parameters()]
        calls = Calls()
        engine = Engine(
            model,
            mesh,
            zero_stage=stage,
            lr=0.1,
            betas=(0.0, 0.0),
            eps=1e-12,
            weight_decay=0.0,
            grad_clip=0.0,
        )
        with calls:
            for _ in range(3):  # many backwards, of which DeepSpeed hears nothing
                model(torch.ones(2, 3)).sum().backward()
            during_sweeps = calls.reduced
            if ranks.rank == 1:
                model[1].weight.grad = None  # a parameter without a gradient on one rank
            expected = [p.grad.clone() if p.grad is not None else None for p in model.parameters()]
            norm = engine.step(0.5)
        summed = [
            torch.zeros_like(p) if g is None else g for p, g in zip(before, expected, strict=True)
        ]
        for grad in summed:
            dist.all_reduce(grad)
        # Adam with zero betas moves by lr * sign(gradient).
        moved = [
            torch.allclose(p, b - 0.1 * g.sign(), atol=1e-5)
            for p, b, g in zip(model.parameters(), before, summed, strict=True)
        ]
        size = sum(p.numel() for p in model.parameters())
        facts[stage] = {
            "during_sweeps": during_sweeps,
            "reduced": calls.reduced / size,
            "moved": all(moved),
            "norm": norm,
            "true_norm": 0.5 * float(torch.cat([g.flatten() for g in summed]).norm()),
            "cleared": all(p.grad is None for p in model.parameters()),
        }
    return facts


class Calls:
    """Counts numbers that go through reducing collectives."""

    NAMES = ("all_reduce", "reduce", "reduce_scatter_tensor", "reduce_scatter")

    def __init__(self):
        self.reduced = 0
        self._plain = {}

    def __enter__(self):
        for name in self.NAMES:
            self._plain[name] = getattr(dist, name)
            setattr(dist, name, self._counting(self._plain[name]))
        return self

    def _counting(self, plain):
        def call(*args, **kwargs):
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            largest = max((t.numel() for t in tensors), default=0)
            if largest > 1:
                self.reduced += largest
            return plain(*args, **kwargs)

        return call

    def __exit__(self, *exc):
        for name, plain in self._plain.items():
            setattr(dist, name, plain)


def test_deepspeed_does_what_the_engine_relies_on():
    for facts in values(run_ranks(engine_facts, 2)):
        for stage, fact in facts.items():
            assert fact["during_sweeps"] == 0, f"stage {stage} reduced inside a sweep"
            assert fact["moved"], f"stage {stage} did not sum the gradients over ranks"
            assert fact["cleared"]
            assert fact["norm"] == pytest.approx(fact["true_norm"], rel=1e-5), f"stage {stage}"
            assert fact["reduced"] <= 1.5, f"stage {stage} reduced {fact['reduced']} times a step"
