"""Parameters of all ranks are compared bit by bit; the rank that differs is named, and nothing is saved."""

import random

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.errors import ReplicaError
from tttscale.train.replicas import Replicas, digest

FLIPS = 20


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8], ids=str
)
def test_every_bit_and_every_place_counts(dtype):
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor([], dtype=dtype).element_size()
    raw = torch.randint(0, 255, (33 * size,), generator=generator, dtype=torch.uint8)
    before = raw.clone()
    seen = {digest(raw.view(dtype)).item()}
    assert torch.equal(raw, before)
    for byte in range(len(raw)):
        for bit in range(8):
            changed = raw.clone()
            changed[byte] ^= 1 << bit
            seen.add(digest(changed.view(dtype)).item())
    assert len(seen) == 1 + 8 * len(raw)
    swapped = raw.view(dtype)[torch.randperm(33, generator=generator)]
    assert digest(swapped).item() not in seen
    assert digest(raw.view(dtype).view(3, 11)) == digest(raw.view(dtype).reshape(11, 3))
    assert digest(raw.view(dtype).view(3, 11).T).item() not in seen
    assert digest(torch.zeros(0, dtype=dtype)) == 0


def test_long_tensors_are_digested_in_pieces(monkeypatch):
    values = torch.randn(1000)
    whole = digest(values)
    monkeypatch.setattr("tttscale.train.replicas._BLOCK_WORDS", 64)
    assert digest(values) == whole
    assert digest(values[torch.arange(999, -1, -1)]) != whole


def flipped(ranks, world):
    """One bit on one rank at a time: what all ranks say; and the same steps without a flip."""
    config = small_config(2, sequences_per_step=2 * world // 2, stage=1)
    trainer, model, _ = small_trainer(ranks, config)
    replicas = Replicas(2, trainer._mesh, model)
    windows, draw, found = small_windows(config), random.Random(5), []
    for step in (1, 2):
        trainer.step(step, windows)
        replicas.check(step, before_save=True)
    names = [name for name, _ in model.named_parameters()]
    for _ in range(FLIPS):
        rank, name = draw.randrange(world), draw.choice(names)
        bits = dict(model.named_parameters())[name].data.view(-1).view(torch.int32)
        place, bit = draw.randrange(len(bits)), 1 << draw.randrange(31)
        if ranks.rank == rank:
            bits[place] ^= bit
        replicas.check(3)  # not due
        with pytest.raises(ReplicaError) as error:
            replicas.check(4)
        with pytest.raises(ReplicaError):
            replicas.check(3, before_save=True)
        if ranks.rank == rank:
            bits[place] ^= bit
        replicas.check(4)
        Replicas(0, trainer._mesh, model).check(4, before_save=True)
        found.append((rank, name, str(error.value)))
    return found


def test_a_flipped_bit_is_found_on_its_rank():
    """Two replicas of two sequence ranks."""
    first, *others = values(run_ranks(flipped, 4, 4))
    assert all(other == first for other in others)
    assert len(first) == FLIPS
    for rank, name, message in first:
        expected = (
            f"step 4: rank {rank} holds other parameters than the 3 other ranks, first {name}. "
        )
        assert message.startswith(expected)
    assert ReplicaError.exit_code == 76


def test_of_two_ranks_neither_is_right():
    first, second = values(run_ranks(flipped, 2, 2))
    assert first == second
    for _, name, message in first:
        assert f"ranks 0 and 1 hold different parameters, first {name}; no value has the" in message


def several(ranks):
    config = small_config(4, sequences_per_step=1)
    trainer, model, _ = small_trainer(ranks, config)
    if ranks.rank > 2:
        list(model.parameters())[-1].data.view(-1)[0] += 1
    if ranks.rank > 1:
        list(model.parameters())[5].data.view(-1)[0] += ranks.rank
    with pytest.raises(ReplicaError) as error:
        Replicas(1, trainer._mesh, model).check(1)
    return str(error.value), list(dict(model.named_parameters()))[5]


def test_several_ranks_that_differ_are_all_named():
    found = values(run_ranks(several, 4))
    message, name = found[0]
    assert all(other == found[0] for other in found)
    assert f"ranks 2 and 3 hold other parameters than the 2 other ranks, first {name}." in message
