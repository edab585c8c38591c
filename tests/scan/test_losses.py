import torch

from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.scan.losses import Losses


def chunks():
    generator = torch.Generator().manual_seed(0)
    for chunk in range(4):
        losses = torch.rand(2, 32, generator=generator)
        labels = torch.randint(0, 9, (2, 32), generator=generator)
        labels[:, chunk::7] = IGNORED
        yield chunk, losses * (labels != IGNORED), labels


def test_losses_noted_for_later_are_those_entered_at_once():
    """On a GPU chunks are only noted, so that nobody waits for it; `settle` enters them in order."""
    at_once, later = (Losses.empty(1, 4, 2, 128) for _ in range(2))
    for chunk, losses, labels in chunks():
        at_once.add(0, chunk, 32 * chunk, losses, labels)
        later._noted.append((0, chunk, 32 * chunk, losses, labels))
    assert not later.flat().any()
    later.settle()
    assert torch.equal(later.flat(), at_once.flat())
    later.settle()  # once is enough
    assert torch.equal(later.flat(), at_once.flat())
    assert at_once.sequence_sums.shape == (1, 2)
