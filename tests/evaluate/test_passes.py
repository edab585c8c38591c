"""Passes: every chunk of every sequence is seen once, and the states at the ends are the decoder's."""

import numpy as np
import pytest
import torch

from tests.evaluate.helpers import Rows, on_ranks, split
from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import relative, tiny_config, tiny_model
from tttscale.model.decoder import Decoder
from tttscale.model.registry import mixer


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize(("ranks", "batch", "count"), [(1, 1, 3), (2, 2, 5), (3, 1, 4)])
def test_every_chunk_is_seen_once(ranks, batch, count, kind):
    sequences = [Rows(45, seed) for seed in range(count)]

    def work(passes, summed):
        seen, told = {}, []

        def see(one):
            for row, number in enumerate(one.rows):
                begin = one.chunk * 8
                assert one.batch.ids[row].tolist() == sequences[number].ids[begin:][:8].tolist()
                assert one.is_last == (one.chunk == 5)
                seen[number, one.chunk] = one.x[row].clone()

        passes.run(sequences, see, told=told.append)
        assert told[-1] == count
        return seen

    found = on_ranks(work, ranks, split(45, kind=kind), batch=batch)
    keys = [key for seen in found for key in seen]
    assert sorted(keys) == [(n, c) for n in range(count) for c in range(6)]
    model = tiny_model(tiny_config())
    with torch.no_grad():
        for number, sequence in enumerate(sequences):
            x = model.embed(torch.from_numpy(sequence.ids)[None])
            for block in model.blocks:
                x = block(x)
            ours = torch.cat([s[number, c] for c in range(6) for s in found if (number, c) in s])
            assert relative(ours, x[0]) < 1e-12


def pattern(learner):
    """The fields of a model; "own" has a layer of someone's own, too."""
    if learner != "own":
        return tiny_config(learner)
    mixer("passes-gated-delta")(GatedDelta)
    return tiny_config("linear", pattern=["passes-gated-delta", "ttt-linear"])


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("learner", ["linear", "mlp", "own"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_states_at_the_ends_are_the_decoders(learner, kind, ranks):
    sequences, config = [Rows(40, seed) for seed in range(5)], pattern(learner)

    def work(passes, summed):
        ended = {}

        def end(rows, state):
            for row, number in enumerate(rows):
                ended[number] = state.rows([row])

        passes.run(sequences, lambda seen: None, end)
        return ended

    found = on_ranks(work, ranks, split(40, kind=kind), config, batch=2)
    states = {number: state for ended in found for number, state in ended.items()}
    assert sorted(states) == list(range(5))
    assert sum(map(len, found)) == 5
    model = tiny_model(config)
    more = torch.from_numpy(np.arange(6)[None])
    for number, sequence in enumerate(sequences):
        whole = Decoder(model)
        whole.read(torch.from_numpy(sequence.ids)[None])
        expected = whole.read_all(more)
        assert states[number].positions == [40]
        assert relative(Decoder(model, states[number]).read_all(more), expected) < 1e-12
