"""Searching choices: all that are tried are possible, the best fits, the smallest change is small."""

from dataclasses import replace

from tests.plan.test_options import model
from tests.plan.test_rates import config_of
from tttscale.plan.options import Choice
from tttscale.plan.search import (
    asked_option,
    best_option,
    chunk_lengths,
    neighbours,
    smallest_change,
    splits,
    with_kept,
)


def test_splits_divide_ranks_and_sequences():
    config = config_of(train__sequences_per_step=6, parallel__batch=2)
    assert splits(config, 12) == [4, 12]  # 3 replicas or 1
    assert splits(config, 1) == [1]


def test_chunk_lengths_are_multiples_and_enough_for_all_ranks():
    config = config_of(data__sequence_length=2**16, model__mini_batch_size=48)
    for ranks in (1, 8, 64):
        found = chunk_lengths(config, ranks)
        assert found == sorted(set(found))
        assert all(c % 48 == 0 and -(-(2**16) // c) >= ranks for c in found)


def test_as_many_chunks_are_kept_as_fit():
    of = model()
    kept = with_kept(of, Choice(8, 8192, "striped", 1, 1), 8)
    assert kept.kept == 256  # all of a tiny model's
    one = of.memory(replace(kept, kept=1), 8)
    of.limit_bytes = one.peak + 3 * one.live_chunk
    assert with_kept(of, kept, 8).kept in (3, 4)
    assert with_kept(of, kept, 8, share=0.5).kept == 2.5


def test_the_best_fits_and_is_no_slower():
    of = model()
    asked = asked_option(of, 8)
    best = best_option(of, 8, asked)
    assert best is not None
    assert best.fits
    assert best.step_seconds <= asked.step_seconds
    of.limit_bytes = 1
    assert best_option(of, 8) is None


def test_neighbours_differ_in_one_key():
    of = model(parallel__sequence=4, parallel__keep_chunks=1)
    asked = asked_option(of, 8)
    found = dict(neighbours(of, asked))
    assert {
        "parallel.chunk_length=2048",
        "parallel.sequence=2",
        "parallel.layout=contiguous",
    } <= set(found)
    for key, option in found.items():
        name, value = key.split("=")
        assert str(option.json()[name]) == value
        others = option.choice.keys(asked.choice)
        assert others in ([], [key])


def test_the_smallest_change():
    of = model("cpu", parallel__sequence=8, parallel__keep_chunks=4, parallel__chunk_length=8192)
    asked = asked_option(of, 8)
    least = of.memory(replace(asked.choice, kept=1), 8)
    of.limit_bytes = least.peak
    keys, option = smallest_change(of, of.price(asked.choice, 8))
    assert keys == ["parallel.keep_chunks=1"]
    assert option.fits
    of.limit_bytes = least.peak - least.live_chunk // 2
    keys, option = smallest_change(of, of.price(asked.choice, 8))
    assert keys == ["parallel.chunk_length=4096"] or len(keys) == 2
    assert option.fits
    of.limit_bytes = 1
    assert smallest_change(of, asked) is None
