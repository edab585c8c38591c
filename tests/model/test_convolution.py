"""What causal convolutions read across a chunk's boundaries, and the gradients that cross them."""

import pytest
import torch

from tttscale.model.chunk import WHOLE, Chunk
from tttscale.model.convolution import CausalInput
from tttscale.model.ports import NullPort

TAPS = 4


class Between(NullPort):
    """A neighbour on each side."""

    def __init__(self, tail=None, grad=None):
        self.tail, self.grad, self.sent, self.returned = tail, grad, [], []

    def recv_state(self):
        return None if self.tail is None else (self.tail,)

    def send_state(self, part):
        self.sent.append(*part)

    def recv_grad(self):
        return None if self.grad is None else (self.grad,)

    def send_grad(self, grad):
        self.returned.append(*grad)


def tokens(length, first=1.0):
    return torch.arange(first, first + length, dtype=torch.float64).view(1, length, 1)


def seen(x, starts=(), tail=None):
    """What the convolution at each token reads: its own input and the three before."""
    read = CausalInput(x, TAPS, Chunk((starts,)), Between(tail))
    windows = read.padded.unfold(1, TAPS, 1)[0, :, 0]
    return (windows if read.rows is None else windows[read.rows]).tolist()


def test_a_sequence_begins_with_zeros():
    assert seen(tokens(2)) == [[0, 0, 0, 1], [0, 0, 1, 2]]


def test_a_chunk_continues_the_one_before():
    assert seen(tokens(2, 5.0), tail=tokens(3, 2.0)) == [[2, 3, 4, 5], [3, 4, 5, 6]]


@pytest.mark.parametrize("first", [4, 2, 1])
def test_no_document_sees_the_one_before(first):
    x = tokens(9)
    cut = [*seen(x[:, :first], tail=tokens(3, -2.0)), *seen(x[:, first:])]
    assert seen(x, starts=(first,), tail=tokens(3, -2.0)) == cut


def test_rows_start_documents_at_different_places():
    x = torch.cat([tokens(6), tokens(6, 11.0)])
    read = CausalInput(x, TAPS, Chunk(((2,), (4,))), NullPort())
    assert read.rows is not None
    windows = read.padded.unfold(1, TAPS, 1)[:, :, 0][:, read.rows]
    for row, start in enumerate((2, 4)):
        assert windows[row].tolist() == seen(x[row : row + 1], starts=(start,))


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_the_tail_is_the_last_inputs_even_of_a_chunk_that_is_shorter(length):
    port = Between(tokens(3, -3.0))
    CausalInput(tokens(length, 0.0), TAPS, WHOLE, port)
    (sent,) = port.sent
    assert sent.flatten().tolist() == list(range(length - 3, length))


def test_a_tail_is_sent_in_fp32_and_used_in_the_dtype_of_its_chunk():
    port = Between(torch.ones(1, 3, 2))
    read = CausalInput(torch.zeros(1, 4, 2, dtype=torch.bfloat16), TAPS, WHOLE, port)
    assert (read.padded.dtype, port.sent[0].dtype) == (torch.bfloat16, torch.float32)


def test_gradients_cross_both_boundaries():
    """Two chunks, each with its neighbour's gradient, have those of the whole."""
    x = tokens(8).requires_grad_()
    weights = torch.randint(-9, 9, (8, TAPS), generator=torch.Generator().manual_seed(0))

    def loss(part, rows, port):
        padded = CausalInput(part, TAPS, WHOLE, port).padded
        return (padded.unfold(1, TAPS, 1)[0, :, 0] * weights[rows]).sum()

    loss(x, slice(8), NullPort()).backward()
    left, right = (x.detach()[:, part].requires_grad_() for part in (slice(5), slice(5, 8)))
    later = Between(left.detach()[:, -3:])
    loss(right, slice(5, 8), later).backward()
    (grad,) = later.returned
    loss(left, slice(5), Between(grad=grad)).backward()
    assert x.grad is not None
    assert left.grad is not None
    assert right.grad is not None
    assert torch.equal(torch.cat([left.grad, right.grad], 1), x.grad)


def test_the_gradient_that_goes_left_does_not_keep_the_chunk():
    """It stays until the chunk before has used it; a view would hold the whole chunk's gradient as long."""
    port = Between(tail=torch.zeros(1, 3, 1, dtype=torch.float64))
    read = CausalInput(tokens(64).requires_grad_(), TAPS, WHOLE, port)
    read.padded.sum().backward()
    (grad,) = port.returned
    assert grad.untyped_storage().nbytes() == 3 * grad.element_size()
