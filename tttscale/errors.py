"""Errors that a user can cause and mend.

Every message says four things: what was asked, what was found, which key or flag decides it, and what
to do next. `assert` is kept for our own invariants; anything a user can trigger is one of these. No message
holds a credential, whatever a library that it quotes has said.
"""

from tttscale.scrub import scrubbed


class TTTScaleError(Exception):
    """Base of all errors that the command prints as one plain message, without a traceback."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(scrubbed(message))


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


class PeerError(TTTScaleError):
    """Another rank died, fell silent, or sent something that was not expected."""

    exit_code = 71


class NumericsError(TTTScaleError):
    """A loss or gradient is not finite; the parameters are as they were before the step."""

    exit_code = 76
