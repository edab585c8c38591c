"""Which moments are this rank's: over all ranks every element once, wherever DeepSpeed keeps them.

DeepSpeed is stood in for by the few fields that are read of it.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tttscale.train.zero_fragments import MOMENTS, ZeroFragments

SIZES = {"a": (5,), "b": (2, 3), "c": (1,)}
"""Three parameters of 12 elements in all."""


def stepped(parameter, value):
    """AdamW's state: element i of the moments is `value` + i."""
    flat = value + torch.arange(parameter.numel(), dtype=torch.float32)
    moments = {name: (flat * (1 + k)).view_as(parameter) for k, name in enumerate(MOMENTS)}
    return {"step": torch.tensor(7.0), **moments}


def parameters():
    return [nn.Parameter(torch.zeros(shape)) for shape in SIZES.values()]


def fragments_of(world, stage, made):
    """What each rank has: made(rank) gives parameters, AdamW's state and DeepSpeed's optimizer."""
    for rank in range(world):
        given, state, zero = made(rank)
        adamw = SimpleNamespace(state=state)
        yield ZeroFragments(
            list(SIZES), given, adamw, zero, stage=stage, rank=rank, world_size=world
        )


def elements(found):
    """(parameter, element) -> its first moment, of all ranks; each once."""
    seen = {}
    for one in found:
        for fragment in one.own():
            values = fragment.moments["exp_avg"].tolist()
            assert fragment.moments["exp_avg_sq"].tolist() == [2 * v for v in values]
            for i, value in enumerate(values, fragment.start):
                assert (fragment.name, i) not in seen
                seen[fragment.name, i] = value
    return seen


ALL = {(name, i) for name, n in (("a", 5), ("b", 6), ("c", 1)) for i in range(n)}


def plain(rank):
    given = parameters()
    return given, {p: stepped(p, 100.0 * k) for k, p in enumerate(given)}, None


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_without_zero_each_rank_takes_a_share_of_what_all_have(world):
    found = elements(fragments_of(world, 0, plain))
    assert found.keys() == ALL
    assert all(value == 100 * "abc".index(name) + i for (name, i), value in found.items())


def partitions(world):
    """Stages 1 and 2: all 12 elements in a row, in `world` partitions; each rank has one."""
    size = 12 // world

    def made(rank):
        flat = nn.Parameter(torch.zeros(size))
        given, begin = parameters(), 0
        for parameter in given:
            low = max(begin, rank * size)
            high = min(begin + parameter.numel(), (rank + 1) * size)
            parameter._hp_mapping = None
            if low < high:
                parameter._hp_mapping = SimpleNamespace(
                    lp_fragment_address=SimpleNamespace(start=low - begin, numel=high - low),
                    hp_fragment_address=SimpleNamespace(start=low - rank * size),
                    param_group_index=0,
                )
            begin += parameter.numel()
        state = {flat: stepped(flat, 12.0 / world * rank)}
        return given, state, SimpleNamespace(single_partition_of_fp32_groups=[flat])

    return made


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_a_flat_partition_is_split_into_its_parameters(stage, world):
    found = elements(fragments_of(world, stage, partitions(world)))
    before = {"a": 0, "b": 5, "c": 11}
    assert found == {(name, i): before[name] + i for name, i in ALL}


def pieces(world):
    """Stage 3: each parameter in `world` pieces, the last of them padded."""

    def made(rank):
        given, positions, offset = parameters(), {}, 0
        for number, parameter in enumerate(given):
            parameter.ds_numel = parameter.numel()
            size = -(-parameter.numel() // world)
            positions[number] = 0, offset, size
            offset += size
        flat = nn.Parameter(torch.zeros(offset))
        state = stepped(flat, 1000.0 * rank)
        ids = {id(p): number for number, p in enumerate(given)}
        zero = SimpleNamespace(
            grad_position=positions,
            get_param_id=lambda p: ids[id(p)],
            fp32_partitioned_groups_flat=[flat],
        )
        return given, {flat: state}, zero

    return made


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_pieces_of_stage_3_end_before_their_padding(world):
    found = elements(fragments_of(world, 3, pieces(world)))
    assert found.keys() == ALL
    for value in found.values():
        assert 0 <= value - 1000 * (value // 1000) < 12
    size = -(-5 // world)
    assert [found["a", i] for i in range(5)] == [1000.0 * (i // size) + i % size for i in range(5)]


@pytest.mark.parametrize(("stage", "made"), [(0, lambda w: plain), (2, partitions), (3, pieces)])
def test_what_is_restored_is_what_was_own(stage, made):
    (before,) = fragments_of(1, stage, made(1))
    kept = {(f.name, f.start): f.moments for f in before.own()}
    assert before.updates() == 7

    def empty(rank):
        given, _, zero = made(1)(rank)
        return given, {}, zero

    (after,) = fragments_of(1, stage, empty)
    assert (after.updates(), after.own()) == (0, [])

    def fill(fragment):
        for name, values in fragment.moments.items():
            values.copy_(kept[fragment.name, fragment.start][name])

    after.restore(7, fill)
    assert after.updates() == 7
    (before,) = fragments_of(1, stage, made(1))
    assert elements([after]) == elements([before])


def test_before_the_first_step_there_is_nothing_to_restore():
    (one,) = fragments_of(1, 0, lambda rank: (parameters(), {}, None))
    one.restore(0, lambda fragment: pytest.fail("there are no moments"))
    assert one.own() == []
