"""Tells the timeline of layers: where each begins, and, while it traces, what no port sees of them.

Hooks say where the feed-forward layer begins, and how far the backward is; only a traced step has them.
"""

from typing import Any, cast

from torch import Tensor

from tttscale.model.language_model import Block, TTTForCausalLM
from tttscale.scan.ports import ChunkPorts
from tttscale.scan.timeline import Activity, Run


class NotedLayers:
    """The layers of one task in one run."""

    def __init__(self, ports: ChunkPorts, model: TTTForCausalLM) -> None:
        """Set no hook yet."""
        self._timeline, self._model = ports.router.timeline, model
        self._task, self._run = ports.task, ports.run
        self._hooks: list[Any] = []

    def begin(self, activity: Activity, layer: int = -1) -> None:
        """Note an activity of this run."""
        self._timeline.begin(activity, self._run, self._task, layer)

    def out(self, out: Tensor, activity: Activity, layer: int = -1) -> Tensor:
        """Note an activity when the backward has the gradient of a tensor, if it will have one."""
        if self._timeline.traces and out.requires_grad:
            place = Run.BACKWARD, self._task, layer
            out.register_hook(lambda grad: self._timeline.begin(activity, *place))
        return out

    def __enter__(self) -> None:
        for layer in self._task.layers if self._timeline.traces else ():
            mixer = cast("Block", self._model.blocks[layer]).seq_modeling_block
            self._hooks.append(mixer.register_forward_hook(self._mixer_end(layer)))

    def __exit__(self, *exc: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _mixer_end(self, layer: int) -> Any:
        def note(module: Any, inputs: Any, out: Any) -> None:
            self.begin(Activity.FINISH, layer)
            if isinstance(out, Tensor):
                self.out(out, Activity.READOUT, layer)

        return note
