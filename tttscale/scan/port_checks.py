"""Whether a layer keeps to the carry that it declares: every part once, in order, with its shapes and dtype.

What a layer gets wrong would be wrong losses without an error (copying broadcasts), or a neighbour that waits
for ever.
"""

from tttscale.errors import MixerError
from tttscale.model.ports import Part
from tttscale.scan.carry import CarryLayout


class PortChecks:
    """Checks one layer in one run of a chunk."""

    def __init__(self, layout: CarryLayout, layer: int, chunk: int) -> None:
        """Nothing is used yet.

        Args:
            layout: what layers declare.
            layer: index of the layer.
            chunk: index of the chunk.
        """
        self._layout, self._layer, self._chunk = layout, layer, chunk
        self._used: dict[str, list[str]] = {}

    def declared(self, part: str) -> None:
        """Check that there is such a part.

        Raises:
            MixerError: there is none.
        """
        declared = list(self._layout.parts[self._layer])
        if part not in declared:
            raise self._error(f"forward uses part {part!r}, carry() declares {declared}")

    def use(self, verb: str, part: str) -> None:
        """Note a call, such as ("recv_state", "tail").

        Raises:
            MixerError: it came out of order, or a second time.
        """
        order, used = self._order(verb), self._used.setdefault(verb, [])
        if len(used) == len(order) or order[len(used)] != part:
            before = f"after {used}" if used else "first"
            raise self._error(f"{verb} of part {part!r} {before}; the order is {order}, each once")
        used.append(part)

    def complete(self, *verbs: str) -> None:
        """Check at the end of a forward or backward that every declared part was used.

        Raises:
            MixerError: one was not.
        """
        for verb in verbs:
            missing = self._order(verb)[len(self._used.get(verb, [])) :]
            if missing:
                raise self._error(
                    f"{verb} of part {missing[0]!r}, which carry() declares, never came"
                )

    def tensors(self, verb: str, part: str, boundary: int, tensors: Part) -> None:
        """Compare what is sent with what was declared.

        Raises:
            MixerError: shapes or dtypes differ.
        """
        carried = self._layout.at(self._layer, boundary)[part]
        shapes = tuple(tuple(t.shape) for t in tensors)
        if shapes == carried.shapes and all(t.dtype == carried.dtype for t in tensors):
            return
        found = [f"{tuple(t.shape)} {t.dtype}" for t in tensors]
        declared = [f"{shape} {carried.dtype}" for shape in carried.shapes]
        raise self._error(f"{verb} of part {part!r} with {found}, carry() declares {declared}")

    def _order(self, verb: str) -> list[str]:
        parts = self._layout.parts[self._layer]
        return list(parts if verb.endswith("state") else reversed(parts))

    def _error(self, what: str) -> MixerError:
        name = self._layout.names[self._layer]
        return MixerError(f"layer {self._layer} ({name}), chunk {self._chunk}: {what}")
