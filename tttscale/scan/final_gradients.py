"""Tells which gradients are final while the last backward of a step still runs.

A rank's gradient of a layer is final once the last of its tasks with that layer has backpropagated through
it. Groups of parameters become final in one order on all ranks, with or without tasks: the head with the last
norm, the layers from the last to the first, and the rest (the embedding, and a weight that the head shares).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial

from torch import nn

from tttscale.errors import MixerError
from tttscale.model.language_model import TTTForCausalLM
from tttscale.scan.keep_policy import backward_order
from tttscale.scan.schedule import ChunkTask
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.timeline import Run


class FinalGradients:
    """Watches the backward sweeps of a model."""

    def __init__(self, model: TTTForCausalLM) -> None:
        """Watch nothing until `sink` is set."""
        self._model = model
        self.sink: Callable[[int], None] | None = None
        """Called with the index of each group in turn, also inside a backward. It may replace `.grad`."""

    @cached_property
    def groups(self) -> list[list[nn.Parameter]]:
        """Parameters in the order in which their gradients become final; each once."""
        return parameter_groups(self._model)

    def backward(self, plan: StepPlan) -> Iterator[tuple[Run, ChunkTask]]:
        """Yield what the backward sweep of a plan does; the caller does each before it takes the next.

        Raises:
            MixerError: a gradient came when its layer's were final; raised from the backward.
        """
        if self.sink is None:
            yield from backward_order(plan.tasks, plan.kept)
            return
        watch = _Watch(self.groups, self.sink)
        last: dict[int, ChunkTask] = {}
        for task in plan.tasks:
            for layer in task.layers:
                last.setdefault(layer, task)
        for run, task in backward_order(plan.tasks, plan.kept):
            ended = [i for i in task.layers if run is Run.BACKWARD and last[i] is task]
            with watch.during(self._groups_of(ended)):
                yield run, task
        watch.tell_before(len(self.groups))

    def _groups_of(self, ended: Sequence[int]) -> range:
        """Return the groups of neighbouring layers, the head with the uppermost."""
        layers = len(self.groups) - 2
        if not ended:
            return range(0)
        return range(0 if layers - 1 in ended else layers - max(ended), layers - min(ended) + 1)


class _Watch:
    """One backward sweep: how many groups the sink was told of."""

    def __init__(
        self, groups: Sequence[Sequence[nn.Parameter]], sink: Callable[[int], None]
    ) -> None:
        self._groups, self._sink = groups, sink
        self._told = 0

    @contextmanager
    def during(self, ended: range) -> Iterator[None]:
        """Watch the gradients of the groups that are final at the end of this task."""
        watched = [(i, p) for i in ended for p in self._groups[i] if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(partial(self._came, i)) for i, p in watched]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if ended:
            self.tell_before(ended.stop)

    def tell_before(self, stop: int) -> None:
        """Tell the sink of all groups before one."""
        while self._told < stop:
            self._told += 1
            self._sink(self._told - 1)

    def _came(self, group: int, parameter: nn.Parameter) -> None:
        """Take a gradient: the groups before its own are final.

        Autograd does first what was recorded last. So a layer's gradients come before those of the layer
        below; some, as those of initial states, only come on ranks with a first chunk.
        """
        if group < self._told:
            raise MixerError(
                f"the gradient of a parameter {tuple(parameter.shape)} came after the backward had left its "
                "layer, when the ranks were summing it already. Let the layer use its parameters in its own "
                "forward only, or set zero.overlap_reduction=false"
            )
        self.tell_before(group)


def parameter_groups(model: TTTForCausalLM) -> list[list[nn.Parameter]]:
    """Return head and last norm, the layers from the last to the first, and the rest.

    A parameter of several is in the one that is final last.
    """
    blocks = [list(block.parameters()) for block in reversed(model.blocks)]
    head = [*model.model.norm.parameters(), *model.lm_head.parameters()]
    elsewhere = {p for group in (head, *blocks) for p in group}
    elsewhere -= set(model.model.embed_tokens.parameters())
    groups, left = [], set(model.parameters())
    for group in ([p for p in model.parameters() if p not in elsewhere], *reversed(blocks), head):
        groups.insert(0, [p for p in group if p in left])
        left.difference_update(group)
    return groups
