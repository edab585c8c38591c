"""A layer that declares what a test wants it to, and a timeline that keeps what it is told."""

import torch

from tttscale.model.ports import Carried
from tttscale.scan.carry import CarryLayout


class Declaring:
    """Two parts; the tail is short, the state grows with the tokens seen."""

    name = "declaring"

    def carry(self, batch, tokens):
        tail = Carried(((batch, 3),), torch.bfloat16)
        return {"tail": tail, "state": Carried(((batch, tokens), (batch, 1)))}


def layout(layers=2, chunk_tokens=4, dtype=torch.float32):
    return CarryLayout([Declaring() for _ in range(layers)], 2, chunk_tokens, dtype)


class Notes:
    """A timeline that keeps what it is told: (activity, run, (sequence, chunk), layer, part)."""

    def __init__(self, traces=False):
        self.traces, self.log = traces, []

    def begin(self, activity, run=None, task=None, layer=-1, part=""):
        place = None if task is None else (task.sequence, task.chunk)
        self.log.append((str(activity), run and str(run), place, layer, part))
