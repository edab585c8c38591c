"""A value that is not finite is found where it began, by all ranks alike, and leaves nothing behind."""

import re
from contextlib import contextmanager

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.scan.ports import ChunkPort
from tttscale.train.non_finite import StepError
from tttscale.train.origin import NOT_AGAIN

CHUNKS, LAYERS, HEAD = 6, 2, 1
KINDS = ("state", "activation", "gradient")
NAN, INF = float("nan"), float("inf")


@contextmanager
def fault(sweeps, kind, chunk, layer, value=NAN):
    """Let one value of a chunk at a layer be `value`, in every sweep: of a state, activation or gradient."""
    mixer = sweeps.model.blocks[layer].seq_modeling_block
    plain = ChunkPort.send_state

    def spoiled(tensor, *place):
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    def send_state(port, part):
        place = port.ports.chunk.task.chunk, port.ports.layer, port.part
        if place == (chunk, layer, sweeps.carry.parts[layer][-1]) and kind == "state":
            part = (spoiled(part[0], 0, HEAD, 2, 1), *part[1:])
        plain(port, part)

    def mixer_ended(module, given, out):
        if given[2].chunk.task.chunk != chunk:
            return None
        if kind == "activation":
            return spoiled(out, 0, 3, 5)
        if kind == "gradient" and out.requires_grad:
            out.register_hook(lambda grad: spoiled(grad, 0, 3, 5))
        return None

    hook = mixer.register_forward_hook(mixer_ended)
    ChunkPort.send_state = send_state
    try:
        yield
    finally:
        hook.remove()
        ChunkPort.send_state = plain


def state_of(trainer, model):
    moments = [m for f in trainer._engine.fragments() for m in f.moments.values()]
    return [t.detach().clone() for t in [*model.parameters(), *moments]]


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def faulty_steps(ranks, config, cases):
    """A good step, a faulty one for each case, a good one; what was said, and whether anything stayed."""
    windows = small_windows(config)
    trainer, model, sweeps = small_trainer(ranks, config)
    trainer.step(1, windows)
    said, before = [], state_of(trainer, model)
    for case in cases:
        with fault(sweeps, *case), pytest.raises(StepError) as error:
            trainer.step(2, windows)
        said.append(str(error.value))
        assert same(before, state_of(trainer, model)), case
    trainer.step(2, windows)
    other, untouched, _ = small_trainer(ranks, config)
    for step in (1, 2):
        other.step(step, windows)
    assert same(state_of(trainer, model), state_of(other, untouched))
    assert not same(before, state_of(trainer, model))
    return said


def every_place(ranks):
    """All chunks, layers and kinds of faults, at the four stages in turn."""
    cases = [(k, c, i) for c in range(CHUNKS) for i in range(LAYERS) for k in KINDS]
    found = []
    for stage in (0, 1, 2, 3):
        config = small_config(4, sequences_per_step=1, stage=stage)
        mine = cases[stage::4]
        found += zip(mine, faulty_steps(ranks, config, mine), strict=True)
    return found


def check_said(message, kind, chunk, layer, rank):
    """The origin is named, not what followed from it."""
    head = f", head {HEAD}" if kind == "state" else ""
    where = f"First in layer {layer}{head}, chunk {chunk} of sequence 0 (replica 0, rank {rank}): "
    what = {
        "state": "the state that it hands on (W1)",
        "activation": "the output of its sequence layer",
        "gradient": "the gradient of its sequence layer's output",
    }[kind]
    assert where + what + " is not a number" in message, message
    assert message.startswith("step 2: "), message
    assert message.endswith("Parameters are as before this step."), message


def test_a_fault_at_any_chunk_and_layer_is_found_by_all_ranks():
    first, *others = values(run_ranks(every_place, 4))
    assert all(other == first for other in others)
    assert len(first) == CHUNKS * LAYERS * len(KINDS)
    for (kind, chunk, layer), message in first:
        check_said(message, kind, chunk, layer, chunk % 4)
        if kind == "state" and chunk == CHUNKS - 1:  # nothing reads it
            assert "a carry, or the gradient of one, is not finite, though the loss is" in message


def other_models(ranks):
    found = []
    for kind, backbone, layout in (
        ("mlp", "mamba", "contiguous"),
        ("linear", "transformer", "striped"),
        ("mlp", "transformer", "contiguous"),
    ):
        config = small_config(2, layout, sequences_per_step=2)
        mamba = backbone == "mamba"
        changes = {"ttt_layer_type": kind, "share_qk": mamba, "use_gate": mamba, "pre_conv": mamba}
        model = config.model.model_copy(update={**changes, "ttt_base_lr": 0.1})
        config = config.model_copy(update={"model": model})
        cases = [(kind, 2, 1) for kind in KINDS]
        found += zip(cases, faulty_steps(ranks, config, cases), strict=True)
    return found


def test_both_learners_and_backbones():
    first, second = values(run_ranks(other_models, 2))
    assert first == second
    for (kind, chunk, layer), message in first:
        rank = int(re.search(r"rank (\d)\)", message)[1])
        check_said(message, kind, chunk, layer, rank)


def replicas(ranks):
    """Two replicas: a fault of the second one only, and one of both."""
    config = small_config(1, sequences_per_step=2)
    windows = small_windows(config)
    trainer, model, sweeps = small_trainer(ranks, config)
    found = []
    if ranks.rank == 1:
        plain = model.embed
        model.embed = lambda ids: plain(ids) * INF
    with pytest.raises(StepError) as error:
        trainer.step(1, windows)
    found.append(str(error.value))
    if ranks.rank == 1:
        model.embed = plain
    with fault(sweeps, "state", 4, 1, INF), pytest.raises(StepError) as error:
        trainer.step(1, windows)
    found.append(str(error.value))
    return found


def test_the_replica_is_named_and_the_first_one_counts():
    first, second = values(run_ranks(replicas, 2))
    assert first == second
    where = "First in chunk 0 of sequence 0 (replica 1, rank 1): "
    assert where + "the embedding of its tokens" in first[0]
    where = "First in layer 1, head 1, chunk 4 of sequence 0 (replica 0, rank 0): "
    assert where + "the state that it hands on" in first[1]
    assert "(W1) is infinite" in first[1]


def custom(ranks):
    """A layer of someone's own: its part by name, a head only where it says so."""
    config = small_config(2, sequences_per_step=1)
    pattern = ["tests.mixers.gated_delta:GatedDelta"]
    model = config.model.model_copy(update={"pattern": pattern, "pre_conv": False})
    config = config.model_copy(update={"model": model})
    return faulty_steps(ranks, config, [("state", 3, 0)])


def test_a_custom_layers_part_is_named():
    first, second = values(run_ranks(custom, 2))
    assert first == second
    where = "First in layer 0, chunk 3 of sequence 0 (replica 0, rank 1): "
    assert where + "the memory that it hands on is not a number" in first[0]


def gone_again(ranks):
    config = small_config(2, sequences_per_step=1)
    trainer, model, _ = small_trainer(ranks, config)
    plain, times = model.embed, []

    def embed(ids):
        times.append(1)
        return plain(ids) * (NAN if len(times) == 1 else 1)

    model.embed = embed
    with pytest.raises(StepError) as error:
        trainer.step(1, small_windows(config))
    return str(error.value)


def test_a_fault_that_does_not_come_again_is_said_to_be_one():
    first, second = values(run_ranks(gone_again, 2))
    assert first == second
    assert NOT_AGAIN in first


def weights(ranks):
    config = small_config(2, sequences_per_step=1)
    trainer, model, _ = small_trainer(ranks, config)
    model.model.norm.weight.data[3] = NAN
    with pytest.raises(StepError) as error:
        trainer.step(1, small_windows(config))
    return str(error.value)


def test_weights_that_are_bad_already_are_named():
    first, second = values(run_ranks(weights, 2))
    assert first == second
    assert "The parameter model.norm.weight is not a number before this step." in first


def far_ahead(ranks):
    """Gradients that are finite on each rank, and too large: of an element, or only as a sum."""
    found = []
    for value in (1e25, 3e38):
        config = small_config(2, sequences_per_step=1)
        trainer, _, sweeps = small_trainer(ranks, config)
        with fault(sweeps, "gradient", 3, 1, value), pytest.raises(StepError) as error:
            trainer.step(1, small_windows(config))
        found.append(str(error.value))
    return found


def test_a_gradient_that_is_too_large_is_located():
    first, second = values(run_ranks(far_ahead, 2))
    assert first == second
    for message in first:
        where = "First in layer 1, chunk 3 of sequence 0 (replica 0, rank 1): "
        assert where + "the gradient of its sequence layer's output" in message
        assert "is too large (" in message
