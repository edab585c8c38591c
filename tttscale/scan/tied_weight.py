"""The weight that embedding and head may share: a chunk that is cut in two adds its gradient in one sum, too.

In one graph autograd adds what comes from the head and what comes from the embedding before it adds the sum
to the parameter's gradient. Floating-point sums depend on their order, so a cut chunk does the same.
"""

import torch
from torch import Tensor

from tttscale.model.language_model import TTTForCausalLM
from tttscale.scan.schedule import ChunkTask, Schedule


class TiedWeight:
    """Backpropagates parts of a chunk."""

    def __init__(self, model: TTTForCausalLM) -> None:
        """Hold nothing back yet."""
        head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
        self._weight = head if head is embedding else None
        self._from_head: Tensor | None = None

    def backward(self, out: Tensor, grad: Tensor, task: ChunkTask, schedule: Schedule) -> None:
        """Backpropagate a task; a part with the head holds its gradient of the weight back.

        Args:
            out: of the task.
            grad: its gradient.
            task: a chunk, or a part of one.
            schedule: what a whole chunk is. Tasks of contiguous ranks always are single layers.
        """
        weight, has_embedding = self._weight, task.layers.start == 0
        has_head = task.layers.stop == schedule.layers
        if weight is None or has_head == has_embedding or schedule.layout.kind == "contiguous":
            torch.autograd.backward(out, grad)
        elif has_head:
            before, weight.grad = weight.grad, None
            torch.autograd.backward(out, grad)
            self._from_head, weight.grad = weight.grad, before
        else:
            assert self._from_head is not None, "the part with the head comes first"
            torch.autograd.backward((out, weight), (grad, self._from_head))
            self._from_head = None
