"""The order of windows: which one a training step reads is a pure function of seed and index."""

from collections.abc import Sequence
from hashlib import blake2b

ROUNDS = 8
MIN_HALF_BITS = 3  # smaller halves would reach too few of the permutations of a few windows


def stable_hash(*values: int) -> int:
    """A hash in [0, 2**64) that is the same in every process, version and machine."""
    text = ",".join(str(value) for value in values)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def data_step(step: int, skipped: Sequence[tuple[int, int]]) -> int:
    """The step number whose windows training step `step` reads: the `step`-th that is not skipped.

    Args:
        step: 1, 2, ...
        skipped: first and last number of each range to leave out, ascending and disjoint.
    """
    assert step > 0, step
    for first, last in skipped:
        if step < first:
            break
        step += last - first + 1
    return step


def sequence_groups(
    step: int, sequences_per_step: int, replicas: int, replica: int, batch: int
) -> list[list[int]]:
    """Indices of a replica's sequences of a step, in groups of `batch`.

    All replicas together take the same `sequences_per_step` in the same order, however many there are.

    Args:
        step: a step number of the data, 1, 2, ...
        sequences_per_step: sequences of the whole job, a multiple of `replicas` * `batch`.
        replicas: number of replicas.
        replica: this one.
        batch: sequences in one sweep.
    """
    share = sequences_per_step // replicas
    first = (step - 1) * sequences_per_step + replica * share
    return [list(range(first + i, first + i + batch)) for i in range(0, share, batch)]


class WindowOrder:
    """A new permutation of the windows for every epoch, without any state.

    A Feistel network permutes the smallest power of four that holds all windows; walking the cycle
    until it comes back below `num_windows` makes it a permutation of the windows alone. So resuming
    needs one integer, and the number of ranks, replicas or loader threads cannot matter.

    Args:
        num_windows: windows per epoch, at least 1.
        seed: any integer.
    """

    def __init__(self, num_windows: int, seed: int) -> None:
        assert num_windows > 0, num_windows
        self.num_windows = num_windows
        self.seed = seed
        self._half = max(MIN_HALF_BITS, ((num_windows - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1

    def window(self, sequence_index: int) -> int:
        """Window of the `sequence_index`-th sequence of the run.

        Args:
            sequence_index: (step - 1) * sequences_per_step + i, at least 0. It may pass the end of
                an epoch: epoch e covers [e * num_windows, (e + 1) * num_windows).

        Returns:
            a number in [0, num_windows).
        """
        assert sequence_index >= 0, sequence_index
        epoch, window = divmod(sequence_index, self.num_windows)
        window = self._permute(epoch, window)
        while window >= self.num_windows:
            window = self._permute(epoch, window)
        return window

    def _permute(self, epoch: int, value: int) -> int:
        left, right = value >> self._half, value & self._mask
        for round_ in range(ROUNDS):
            noise = stable_hash(self.seed, epoch, round_, right)
            left, right = right, left ^ (noise & self._mask)
        return left << self._half | right
