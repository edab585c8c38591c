"""Chunked sweeps in one process equal one whole pass."""

import threading
import time
import weakref

import pytest
import torch

from tests.scan.helpers import random_tokens, relative, sweep, tiny_config, tiny_model, whole_pass
from tttscale.scan.carry_store import CarryStore
from tttscale.scan.keep_policy import ActivationPolicy, SavedBytes
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps


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


class Watched:
    """A sequence that notes which chunks are read, and by which thread."""

    def __init__(self, tokens, log):
        self.tokens, self.log = tokens, log

    def chunk(self, begin, end):
        self.log.append((begin, threading.current_thread().name))
        return self.tokens.chunk(begin, end)


def test_chunks_are_read_ahead_by_one_thread_also_across_sweeps_and_steps():
    log = []
    tokens = [[Watched(random_tokens(32), log)]]
    config = tiny_config()
    sweeps = Sweeps(tiny_model(config), Layout("striped", 32, 8), keep=ActivationPolicy(1))
    sweeps.prepare(tokens)
    assert wait_for(lambda: len(log) == 1)
    sweeps.forward(tokens)
    # Chunk 3 keeps its graph; that of 2, to be recomputed first, is read behind the forward sweep.
    assert wait_for(lambda: [begin for begin, _ in log] == [0, 8, 16, 24, 16])
    sweeps.backward()
    assert [begin for begin, _ in log] == [0, 8, 16, 24, 16, 8, 0]
    assert {thread for _, thread in log} == {"read-chunk_0"}
    sweeps.prepare(tokens)
    again = [[random_tokens(32)]]
    sweeps.forward(again)  # other sequences than were prepared: these are read, not those
    sweeps.backward()
    assert [begin for begin, _ in log[7:]] == [0]


def test_the_old_carries_go_before_room_for_others_is_made(monkeypatch):
    alive, most = weakref.WeakSet(), []
    plain = CarryStore.__init__

    def noted(store, *args):
        plain(store, *args)
        alive.add(store)
        most.append(len(alive))

    monkeypatch.setattr(CarryStore, "__init__", noted)
    config, tokens = tiny_config(), [[random_tokens(32)]]
    sweeps = Sweeps(tiny_model(config), Layout("striped", 32, 8), keep=ActivationPolicy(1))
    for keep in (1, 2, 2):
        sweeps.keep.chunks = keep
        sweeps.forward(tokens)
        sweeps.backward()
    assert most == [1, 1]  # the third step takes the second one's


def test_what_the_head_keeps_for_its_backward_is_counted():
    model = tiny_model(tiny_config(vocab_size=4099, hidden_size=8))
    x = torch.zeros(1, 3, 8, dtype=torch.float64, requires_grad=True)
    with SavedBytes(model.parameters()) as saved:
        model.head(x, torch.zeros(1, 3, dtype=torch.int64))
    assert saved.total >= model.lm_head.weight.nbytes  # the gradient of the head's weights


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
def test_a_head_of_ones_own_sees_what_the_models_head_would(kind):
    groups = [[random_tokens(29, seed=m)] for m in range(2)]
    model = tiny_model(tiny_config())
    sweeps = Sweeps(model, Layout(kind, 29, 8, 1, 2))
    expected = sweeps.forward(groups, train=False).sums.clone()
    seen = torch.zeros_like(expected)

    def head(task, batch, x):
        seen[task.sequence, task.chunk] = model.head(x, batch.labels)[1].double().sum(1)

    assert not sweeps.forward(groups, train=False, head=head).sums.any()
    assert torch.equal(seen, expected)
    assert torch.equal(sweeps.forward(groups, train=False).sums, expected)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()
