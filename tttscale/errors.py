"""Errors that a user can cause and fix.

Every message says four things: what was requested, what was found, which key or flag decides it, and what
to do next. `assert` is kept for our own invariants; anything a user can trigger is one of these. No message
holds a credential, whatever a library that it quotes has said.
"""

import errno

from tttscale import codes
from tttscale.scrub import scrubbed

_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}


class TTTScaleError(Exception):
    """Base of all errors that the command prints as one plain message, without a traceback."""

    exit_code = codes.PROBLEM.number

    def __init__(self, message: str = "") -> None:
        """Take a message; credentials in it are hidden, and what a terminal would obey is escaped."""
        super().__init__("".join(map(_shown, scrubbed(message))))


class ConfigError(TTTScaleError):
    """A configuration file, key, override or command-line flag is wrong."""

    exit_code = codes.USAGE.number


class DiskError(ConfigError):
    """A place that a key or flag has named cannot be written: its disk is full or fails."""

    exit_code = codes.DISK.number


class DataError(TTTScaleError):
    """A token store, tokenizer or source text is missing, damaged or does not fit the run."""

    exit_code = codes.DATA.number


class CheckpointError(TTTScaleError):
    """Weights or a checkpoint are missing, damaged or do not fit the model."""

    exit_code = codes.CHECKPOINT.number


class LaunchError(TTTScaleError):
    """The processes, ranks or devices of a job do not fit together."""

    exit_code = codes.LAUNCH.number


class MixerError(TTTScaleError):
    """A sequence layer does not keep to what it declares: its carry, its options, its initial weights."""

    exit_code = codes.BUG.number


class PeerError(TTTScaleError):
    """Another rank died, fell silent, or sent something that was not expected."""

    exit_code = codes.PEER.number


class CrashLoopError(TTTScaleError):
    """A run failed in start after start without progress; starting it once more by itself leads nowhere."""

    exit_code = codes.LOOP.number


class ReplicaError(TTTScaleError):
    """Ranks hold different parameters, though they made the same updates."""

    exit_code = codes.NUMERICS.number


class NumericsError(TTTScaleError):
    """A loss, a gradient, a carry or a weight is not a finite number, or too large to compute with."""

    exit_code = codes.NUMERICS.number

    def __init__(self, message: str, step: int = 0, sound: int = 0) -> None:
        """What happened, and when.

        Args:
            message: for people.
            step: which failed.
            sound: the last step after which the weights still gave a finite loss; negative if not even those
                that the run began with did.
        """
        super().__init__(message)
        self.step, self.sound = step, sound


def of_disk(error: BaseException) -> bool:
    """Whether it says that a disk is full, a limit of size is reached, or a disk fails."""
    return isinstance(error, OSError) and error.errno in _OF_DISK


def cannot_write(error: OSError, message: str) -> ConfigError:
    """Return the error for a place that cannot be written: a DiskError if the disk is full or fails."""
    return (DiskError if of_disk(error) else ConfigError)(message)


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode()
