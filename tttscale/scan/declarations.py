"""What a layer declares of its carry, asked of the layer and checked in its form."""

from typing import Protocol

import torch

from tttscale.errors import MixerError
from tttscale.model.ports import Carried
from tttscale.model.registry import fault


class CarryLayer(Protocol):
    """A layer that says what it hands on."""

    name: str

    def carry(self, batch: int, tokens: int) -> dict[str, Carried]:
        """The parts after `tokens` tokens, in the order in which forward meets them."""
        ...


def declared(layer: CarryLayer, index: int, batch: int, tokens: int) -> dict[str, Carried]:
    """Ask a layer, and check what comes: everything after this relies on its form.

    Raises:
        MixerError: carry() failed, or gives something else than parts.
    """
    where = f"layer {index} ({layer.name}): carry({batch}, {tokens})"
    try:
        parts = layer.carry(batch, tokens)
    except Exception as error:  # code of someone's own may raise anything
        raise MixerError(f"{where} failed: {fault(error)}") from error
    for name, part in parts.items():
        if not (isinstance(part, Carried) and _is_well_formed(part)):
            raise MixerError(
                f"{where} declares {name!r} as {part!r}; expected Carried(shapes, dtype), such as "
                f"Carried((({batch}, 8, 64),)): a tuple of shapes, a torch.dtype or None"
            )
    return parts


def _is_well_formed(part: Carried) -> bool:
    return (
        isinstance(part.shapes, tuple)
        and all(isinstance(shape, tuple) for shape in part.shapes)
        and all(type(n) is int and n >= 0 for shape in part.shapes for n in shape)
        and (part.dtype is None or isinstance(part.dtype, torch.dtype))
        and isinstance(part.names, tuple)
        and all(isinstance(name, str) for name in part.names)
        and len(part.names) in (0, len(part.shapes))
        and isinstance(part.has_heads, bool)
        and not (part.has_heads and any(len(shape) < 2 for shape in part.shapes))
    )
