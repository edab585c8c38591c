"""What the sweeps say of themselves: every activity in its order, on every rank; and no number changes."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from tests.scan.helpers import K, gradients, random_tokens, tiny_config, tiny_model
from tttscale.comm.threads import ThreadWorld
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

CHUNK = 2 * K


def traced(ranks, *, chunks=4, keep=1, kind="striped", layers=2, trace=True, **config):
    """A step on thread ranks: each rank's spans, its gradients and losses."""
    layout = Layout(kind, chunks * CHUNK, CHUNK, ranks)
    groups = [[random_tokens(chunks * CHUNK)]]

    def rank(transport):
        model = tiny_model(tiny_config(layers=layers, **config))
        sweeps = Sweeps(model, layout, transport, keep=ActivationPolicy(keep))
        if trace:
            sweeps.timeline.start_trace()
        sweeps.forward(groups)
        losses = sweeps.backward()
        spans, reads = sweeps.timeline.end_trace()[:2] if trace else ([], [])
        return spans, reads, losses.sums, gradients(model), sweeps.timeline.take()

    return ThreadWorld(ranks).run(rank)


def words(spans, run, chunk):
    """Activities of a chunk in one of its runs, each with its layer, or with its part."""
    found = [s for s in spans if (s.run, s.chunk) == (run, chunk)]
    return [
        s.activity + (f" {s.part}" if s.part else f" {s.layer}" if s.layer >= 0 else "")
        for s in found
    ]


def without_repeats(names):
    return [b for a, b in pairwise(["", *names]) if a != b]


BEFORE = ["wait pre_conv", "send pre_conv", "wait qk_conv", "send qk_conv"]


def test_a_forward_run_of_a_chunk_between_two_ranks():
    spans = traced(2)[1][0]
    found = without_repeats(words(spans, "forward", 1))
    layer = "project N, C, wait state, advance N, send state, readout N, finish N"
    assert found[:2] == ["data", "embed"]
    for number in ("0", "1"):
        want = layer.replace("N", number).split(", ")
        start = found.index(f"project {number}")
        block = found[start : found.index(f"finish {number}") + 1]
        convolutions = [w for w in block if w.endswith("conv")]
        assert sorted(convolutions) == sorted(BEFORE)
        rest = [w for w in block if not w.endswith("conv")]
        assert without_repeats(rest) == [w for w in want if w != "C"]
    assert found[-1] == "finish 1"  # the head is left to the recomputation


def test_a_recomputation_has_all_activities_but_waits_and_sends():
    spans = traced(2)[1][0]
    found = without_repeats(words(spans, "recompute", 1))
    layer = "project N, advance N, readout N, finish N"
    want = [w for n in "01" for w in layer.replace("N", n).split(", ")]
    assert found == ["data", "embed", *want, "head"]


def test_a_backward_run_goes_the_other_way():
    spans = traced(2)[1][0]
    found = without_repeats(words(spans, "backward", 1))
    state = [w for w in found if not w.endswith("conv")]
    layer = "finish N, readout N, wait state, advance N, send state, project N"
    want = [w for n in "10" for w in layer.replace("N", n).split(", ")]
    assert without_repeats(state) == ["head", *want, "embed"]
    assert Counter(w for w in found if w.endswith("conv")) == dict.fromkeys(BEFORE, 2)


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_spans_follow_each_other_and_every_send_has_its_wait(ranks, kind):
    results = traced(ranks, kind=kind, chunks=6)
    sent, waited = Counter(), Counter()
    for spans, reads, *_ in results:
        assert all(a.end == b.begin for a, b in pairwise(spans))
        assert all(s.end >= s.begin for s in spans)
        for span in spans:
            key = span.run, span.boundary, span.layer, span.part
            if span.activity == "send":
                sent[key] += 1
            elif span.activity == "wait":
                waited[key] += 1
        assert reads
        assert all(0 <= r.chunk < 6 for r in reads)
    assert sent == waited
    assert set(sent.values()) <= {1}
    crossing = {"striped": 5, "contiguous": ranks - 1}[kind] if ranks > 1 else 0
    assert len(sent) == crossing * 2 * 2 * 3  # layers, directions, parts


def test_a_trace_changes_no_bit():
    for with_trace, without in zip(traced(2), traced(2, trace=False), strict=True):
        assert torch.equal(with_trace[2], without[2])
        for name, grad in with_trace[3].items():
            assert torch.equal(grad, without[3][name])


def test_a_rank_alone_waits_for_no_carry():
    held = traced(1)[0][4]
    assert held.ramp == held.starved == 0
