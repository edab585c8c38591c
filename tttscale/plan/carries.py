"""The real carries of a run, without its weights."""

import torch

from tttscale.comm.messages import message_bytes
from tttscale.config import Config
from tttscale.model.language_model import Block
from tttscale.model.registry import kinds_of, names_of
from tttscale.scan.carry import CarryLayout
from tttscale.scan.schedule import CarryKey


class Carries:
    """What every layer hands over every boundary, and how long its messages are."""

    blocks: dict[str, Block]
    """One block of each kind of layer, on the meta device."""

    def __init__(self, config: Config) -> None:
        """Ask one block of each kind, made without memory for its weights.

        Raises:
            MixerError: a layer cannot be made, or declares its carry wrongly.
        """
        shape = config.architecture()
        with torch.device("meta"):
            self.blocks = {name: Block(shape, name) for name in kinds_of(shape)}
        layers = [self.blocks[name] for name in names_of(shape)]
        parallel = config.parallel
        self.layout = CarryLayout(layers, parallel.batch, parallel.chunk_length, torch.float32)
        self.parts = self.layout.parts

    def bytes(self, key: CarryKey) -> int:
        """Length of the message that carries a part."""
        return message_bytes(self.layout.of(key))
