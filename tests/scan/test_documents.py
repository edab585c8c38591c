"""Documents packed in one sequence are as independent as documents alone, across every kind of edge."""

import numpy as np
import pytest
import torch

from tests.scan.helpers import K, Tokens, random_tokens, relative, sweep, tiny_config

LENGTHS = [(9, 15, 22), (16, 8, 21), (3, 2, 30), (13, 1, 1)]


def pack(documents):
    """Each document at a multiple of K; the gaps are masked from the loss and padded."""
    ids, labels, padded, starts = [], [], [], []
    for tokens in documents:
        fill = -len(ids) % K
        ids += [0] * fill
        labels += [-100] * fill
        padded += [True] * fill
        starts.append(len(ids))
        ids += list(tokens.ids)
        labels += list(tokens.labels)
        padded += [False] * len(tokens.ids)
    return Tokens(np.array(ids), np.array(labels), tuple(starts), np.array(padded))


def alone(config, documents):
    total, sums = {}, 0.0
    for tokens in documents:
        losses, grads = sweep(config, [[tokens]], chunk=64)
        sums += losses.sequence_sums.item()
        for name, grad in grads.items():
            total[name] = total.get(name, 0) + grad
    return sums, total


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_packed_equals_alone(kind, lengths):
    config = tiny_config(kind)
    documents = [random_tokens(n, seed=i) for i, n in enumerate(lengths)]
    expected, expected_grads = alone(config, documents)
    packed = pack(documents)
    for ranks, chunk, layout in [(1, 64, "striped"), (2, 8, "striped"), (3, 4, "contiguous")]:
        losses, grads = sweep(config, [[packed]], ranks=ranks, chunk=chunk, kind=layout)
        assert abs(losses.sequence_sums.item() - expected) < 1e-10 * abs(expected)
        for name, grad in grads.items():
            assert relative(grad, expected_grads[name]) < 1e-10, name


def test_rows_of_a_batch_may_start_documents_at_different_places():
    config = tiny_config()
    rows = [
        [random_tokens(9, 1), random_tokens(20, 2)],
        [random_tokens(24, 3), random_tokens(5, 4)],
        [random_tokens(32, 5)],
    ]
    packed = [pack(row) for row in rows]
    length = max(len(p.ids) for p in packed)
    packed = [
        Tokens(
            np.pad(p.ids, (0, length - len(p.ids))),
            np.pad(p.labels, (0, length - len(p.labels)), constant_values=-100),
            p.starts,
            np.pad(p.padded, (0, length - len(p.padded)), constant_values=True),
        )
        for p in packed
    ]
    expected, expected_grads = alone(config, [tokens for row in rows for tokens in row])
    losses, grads = sweep(config, [packed], ranks=2, chunk=8)
    assert abs(losses.sequence_sums.sum().item() - expected) < 1e-10 * abs(expected)
    for name, grad in grads.items():
        assert relative(grad, expected_grads[name]) < 1e-10, name


def test_a_document_does_not_see_the_one_before():
    config = tiny_config()
    second = random_tokens(20, 7)
    one = sweep(config, [[pack([random_tokens(16, 1), second])]], chunk=8)[0]
    other = sweep(config, [[pack([random_tokens(16, 2), second])]], chunk=8)[0]
    assert torch.equal(one.sums[0, 2:], other.sums[0, 2:])
    assert not torch.equal(one.sums[0, :2], other.sums[0, :2])
