"""Chunked sweeps in one process equal one whole pass."""

import pytest
import torch

from tests.scan.helpers import random_tokens, relative, sweep, tiny_config, tiny_model, whole_pass


def check(config, groups, tolerance=1e-12, **options):
    flat = [tokens for group in groups for tokens in group]
    losses, grads = sweep(config, groups, **options)
    expected, expected_grads = whole_pass(tiny_model(config), flat)
    ours = losses.sequence_sums.flatten()
    assert relative(ours, torch.tensor(expected, dtype=torch.float64)) < tolerance
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        assert relative(grad, expected_grads[name]) < tolerance, name


@pytest.mark.parametrize("length", [53, 56, 50])  # last chunk of 7 chunks: 5, 8 and 2 tokens
@pytest.mark.parametrize("chunk", [56, 28, 20, 8])  # 1, 2, 3, 7 chunks
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_n_chunks_equal_one_pass(kind, chunk, length):
    check(tiny_config(kind), [[random_tokens(length)]], chunk=chunk)


@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("layout", ["striped", "contiguous"])
@pytest.mark.parametrize("keep", [0, 1, 3, 99])
def test_layouts_and_kept_chunks(backbone, layout, keep):
    config = tiny_config("linear", backbone, layers=3)
    check(config, [[random_tokens(45)]], chunk=8, kind=layout, keep=keep)


def test_last_chunk_shorter_than_the_convolution():
    config = tiny_config(mini_batch_size=1, conv_kernel=4)
    check(config, [[random_tokens(19)]], chunk=2)
    check(config, [[random_tokens(17)]], chunk=4)


def test_batches_and_several_sequences():
    groups = [[random_tokens(30, seed=10 * m + b) for b in range(3)] for m in range(2)]
    check(tiny_config("mlp"), groups, chunk=8)
