"""Errors that a user can cause and fix.

Every message says four things: what was requested, what was found, which key or flag decides it, and what
to do next. `assert` is kept for our own invariants; anything a user can trigger is one of these. No message
holds a credential, whatever a library that it quotes has said.
"""

from tttscale.scrub import scrubbed


class TTTScaleError(Exception):
    """Base of all errors that the command prints as one plain message, without a traceback."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        """Take a message; credentials in it are hidden, and what a terminal would obey is escaped."""
        super().__init__("".join(map(_shown, scrubbed(message))))


class ConfigError(TTTScaleError):
    """A configuration file, key, override or command-line flag is wrong."""

    exit_code = 64


class DataError(TTTScaleError):
    """A token store, tokenizer or source text is missing, damaged or does not fit the run."""

    exit_code = 65


class CheckpointError(TTTScaleError):
    """Weights or a checkpoint are missing, damaged or do not fit the model."""

    exit_code = 66


class LaunchError(TTTScaleError):
    """The processes, ranks or devices of a job do not fit together."""

    exit_code = 69


class MixerError(TTTScaleError):
    """A sequence layer does not keep to what it declares: its carry, its options, its initial weights."""

    exit_code = 70


class PeerError(TTTScaleError):
    """Another rank died, fell silent, or sent something that was not expected."""

    exit_code = 71


class NumericsError(TTTScaleError):
    """A loss, a gradient, a carry or a weight is not a finite number, or too large to compute with."""

    exit_code = 76

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


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode()
