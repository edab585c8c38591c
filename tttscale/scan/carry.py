"""The carry: what a later chunk needs of the past, as every layer declares it."""

from collections.abc import Iterable

import torch

from tttscale.errors import MixerError
from tttscale.model.ports import Carried
from tttscale.scan.declarations import CarryLayer, declared
from tttscale.scan.schedule import CarryKey


class CarryLayout:
    """What every layer hands over every boundary, for B sequences side by side."""

    def __init__(
        self,
        layers: Iterable[CarryLayer],
        batch: int,
        chunk_tokens: int,
        dtype: torch.dtype,
        begin_tokens: int = 0,
    ) -> None:
        """Ask all layers.

        Args:
            layers: of the model, first to last.
            batch: sequences B side by side.
            chunk_tokens: C, so that C (b + 1) tokens come before boundary b.
            dtype: of the model's parameters; parts are fp32 or wider unless their layer says otherwise.
            begin_tokens: tokens of the sequences before chunk 0.
        """
        self._layers, self._batch, self._chunk_tokens = tuple(layers), batch, chunk_tokens
        self._begin_tokens = begin_tokens
        self._wide = torch.promote_types(dtype, torch.float32)
        self._known: dict[tuple[int, int], dict[str, Carried]] = {}
        self.names = tuple(layer.name for layer in self._layers)
        self.parts = tuple(tuple(self._ask(layer, 0)) for layer in range(len(self._layers)))
        """The names of each layer's parts, in order."""

    def at(self, layer: int, boundary: int) -> dict[str, Carried]:
        """What a layer hands over a boundary.

        Raises:
            MixerError: it declares other parts here than over the first boundary, or none in this form.
        """
        found = self._ask(layer, boundary)
        if tuple(found) != self.parts[layer]:
            raise MixerError(
                f"layer {layer} ({self.names[layer]}): carry() declares the parts {list(found)} after "
                f"chunk {boundary} and {list(self.parts[layer])} after chunk 0; only shapes may depend on "
                "the tokens seen"
            )
        return found

    def _ask(self, layer: int, boundary: int) -> dict[str, Carried]:
        where = layer, boundary
        if where not in self._known:
            tokens = self._begin_tokens + (boundary + 1) * self._chunk_tokens
            parts = declared(self._layers[layer], layer, self._batch, tokens)
            self._known[where] = {
                name: part._replace(dtype=part.dtype or self._wide) for name, part in parts.items()
            }
        return self._known[where]

    def of(self, key: CarryKey) -> Carried:
        """Shapes and dtype of one part, and so of its gradient."""
        return self.at(key.layer, key.boundary)[key.part]
