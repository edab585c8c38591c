"""What is noted of layers in a traced step, and that nothing of it stays behind."""

import torch

from tests.scan.test_chunk_runner import BOTTOM, TOP, OneChunk, task


def test_hooks_are_for_traced_steps_and_gone_with_them():
    for traces in (False, True):
        one = OneChunk(traces=traces)
        one.record(BOTTOM)
        finishes = [layer for activity, _, _, layer, _ in one.notes.log if activity == "finish"]
        assert finishes == ([0, 1] if traces else [])
        mixers = [block.seq_modeling_block for block in one.model.carry_layers]
        assert not any(mixer._forward_hooks for mixer in mixers)


def places(one, activity):
    """(run, layer) of an activity, in order, each once: ports come back to it between two parts."""
    found = ((run, layer) for name, run, _, layer, _ in one.notes.log if name == activity)
    return list(dict.fromkeys(found))


def test_layers_are_noted_forwards_and_in_reverse_backwards():
    one = OneChunk(traces=True)
    recorded = {layers: one.record(layers) for layers in (BOTTOM, TOP)}
    assert places(one, "embed") == [("forward", -1)]
    for name in ("project", "finish"):
        assert places(one, name) == [("forward", layer) for layer in range(3)]
    one.notes.log.clear()
    for layers in (TOP, BOTTOM):
        one.runner.backpropagate(task(layers), recorded[layers], one.step)
    for name in ("finish", "readout"):
        assert places(one, name) == [("backward", layer) for layer in (2, 1, 0)]
    assert places(one, "head") == [("backward", -1)]
    assert places(one, "embed")[-1] == ("backward", -1)


def test_an_untraced_step_has_no_hooks_on_its_tensors():
    one = OneChunk()
    out = one.record(BOTTOM).out
    assert not out._backward_hooks
    traced = OneChunk(traces=True).record(BOTTOM).out
    assert traced._backward_hooks
    assert torch.equal(out, traced)
