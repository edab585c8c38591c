"""Exit codes of the command, each with what it means and what to do. The one table; docs show it."""

from typing import NamedTuple


class Code(NamedTuple):
    """An exit code."""

    number: int
    name: str
    meaning: str
    retry: bool
    """Whether the same command may get further when it is started again without a change."""


DONE = Code(0, "done", "the command has done what was asked", False)
PROBLEM = Code(1, "problem", "`doctor` has found a problem; its report says which", False)
FLAGS = Code(
    2, "flags", "the command line has an unknown verb or flag, or lacks an argument", False
)
USAGE = Code(64, "usage", "a key, a flag's value or the configuration is wrong", False)
DATA = Code(65, "data", "a token store, tokenizer or text is missing or damaged", False)
CHECKPOINT = Code(
    66, "checkpoint", "weights or a checkpoint are missing, damaged or do not fit", False
)
LAUNCH = Code(
    69, "launch", "processes, ranks or devices do not fit or do not find each other", True
)
BUG = Code(70, "bug", "an error that is not foreseen, or a layer that breaks its promise", False)
PEER = Code(71, "peer lost", "a rank was killed, or its host or launcher is gone", True)
HANG = Code(72, "hang", "a rank stopped making progress, or all of them waited", True)
DISK = Code(74, "disk", "a disk is full or fails", False)
SAVED = Code(75, "saved", "saved and ended as asked; the same command resumes", True)
NUMERICS = Code(
    76,
    "numerics",
    "a loss, gradient, carry or weight is not a finite number, or ranks hold different parameters",
    False,
)
LOOP = Code(
    77, "crash loop", "start after start failed without progress, so no more is begun", False
)
INTERRUPTED = Code(130, "interrupted", "Ctrl-C (SIGINT) ended it", True)
TERMINATED = Code(143, "terminated", "SIGTERM ended it, without a save", True)
CODES = (
    *(DONE, PROBLEM, FLAGS, USAGE, DATA, CHECKPOINT, LAUNCH, BUG, PEER, HANG, DISK, SAVED),
    *(NUMERICS, LOOP, INTERRUPTED, TERMINATED),
)
