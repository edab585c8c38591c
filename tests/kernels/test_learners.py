"""The description of each inner learner agrees with its kernels, and a third one needs no other change."""

from dataclasses import replace

import pytest
import torch

from tests.kernels.problem import problem
from tttscale.kernels import scan
from tttscale.kernels.learners import LEARNERS, PHASES, SERIAL_PHASES, Learner
from tttscale.kernels.torch_scan.group_scan import GroupScan
from tttscale.kernels.triton_scan.launches import ampere, fp32, hopper

FLOATS = {"linear": lambda f: f * f + f, "mlp": lambda f: 8 * f * f + 5 * f}


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_state_has_the_size_that_the_paper_gives(kind):
    learner = LEARNERS[kind]
    for dim in (16, 64):
        assert learner.floats(dim) == FLOATS[kind](dim)
        shapes = learner.state_shapes(3, 2, dim)
        assert all(shape[:2] == (3, 2) for shape in shapes)
        assert sum(torch.Size(shape[2:]).numel() for shape in shapes) == learner.floats(dim)


@pytest.mark.parametrize("kind", LEARNERS)
def test_both_backends_have_the_phases(kind):
    from tttscale.kernels.triton_scan.scan import TritonScan

    learner = LEARNERS[kind]
    plain, triton = learner.scan_class("torch"), learner.scan_class("triton")
    assert issubclass(plain, GroupScan)
    assert issubclass(triton, TritonScan)
    assert triton.segment_type.kind == kind
    for phase in PHASES:
        assert callable(getattr(plain, phase))
        assert callable(getattr(triton, phase))
    assert set(SERIAL_PHASES) < set(PHASES)


@pytest.mark.parametrize("gpu", [ampere, fp32, hopper], ids=["ampere", "fp32", "hopper"])
def test_every_gpu_has_launches_for_every_learner_on_triton(gpu):
    assert set(gpu.TABLES) == {name for name, learner in LEARNERS.items() if learner.triton}


def test_a_third_learner_is_one_more_line(monkeypatch):
    """Without Triton kernels: torch runs it on a GPU too, and to ask for Triton is an error."""
    linear = LEARNERS["linear"]
    monkeypatch.setitem(LEARNERS, "third", Learner("third", linear.shapes, linear.torch))
    p = problem("linear", 4, 10, 8)
    third = replace(p, kind="third")
    assert all(torch.equal(a, b) for a, b in zip(third.scan(), p.scan(), strict=True))
    gpu = torch.device("cuda", 0)
    taken = scan.choose_backend("auto", "third", gpu, 64, 16, torch.bfloat16)
    assert taken == ("torch", "does not exist for third")
    with pytest.raises(ValueError, match="backend 'triton' does not exist for third"):
        scan.choose_backend("triton", "third", gpu, 64, 16, torch.bfloat16)
