"""The language model: embedding, blocks, head; whole, or step by step as the sweeps drive it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from tttscale.errors import MixerError
from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.kernels.ops.linear import embedded
from tttscale.kernels.precision import widened
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import WHOLE, Chunk
from tttscale.model.convolution import CausalInput, convolved, window
from tttscale.model.decode_state import DecodeState, HeldPorts, Parts
from tttscale.model.initial_values import initialise
from tttscale.model.layers import Layer, RMSNorm, SwiGLU
from tttscale.model.ports import NULL_PORTS, Carried, LayerPorts
from tttscale.model.registry import names_of
from tttscale.model.sequence_layer import Mixer, build_mixer
from tttscale.model.ttt_layer import TTTLayer

if TYPE_CHECKING:
    from tttscale.model.generation import Generated


@dataclass
class CausalLMOutput:
    """What `TTTForCausalLM.forward` returns."""

    logits: Tensor
    """fp32 (or wider) [B, T, V]."""
    loss: Tensor | None = None
    """Mean over the labels that are not -100."""


class PreConv(Layer):
    """The convolution in front of a sequence layer: DWConv(RMS(x))."""

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.conv = nn.Conv1d(width, width, config.conv_kernel, groups=width)

    def carry(self, batch: int) -> dict[str, Carried]:
        """The last inputs of the convolution."""
        reach = self.conv.kernel_size[0] - 1
        return {"pre_conv": Carried(((batch, reach, self.conv.in_channels),))}

    def forward(self, x: Tensor, chunk: Chunk, ports: LayerPorts) -> tuple[Tensor, Tensor]:
        """The stream [B, C, D], and what is to be added to it."""
        x, h = self.norm(x)
        past = CausalInput(h, self.conv.kernel_size[0], chunk, ports["pre_conv"])
        return x, self.operators.causal_conv(
            past.padded, past.rows, self.conv.weight, self.conv.bias
        )

    def step(self, x: Tensor, ports: LayerPorts) -> tuple[Tensor, Tensor]:
        """The same of one token, [B, 1, D], without a graph."""
        x, h = self.norm(x)
        inputs = window(h, self.conv.kernel_size[0], ports["pre_conv"])
        return x, convolved(inputs, self.conv).unsqueeze(1).to(h.dtype)


class Block(nn.Module):
    """Optional convolution, sequence layer, SwiGLU (if the layer wants one), each with a residual."""

    def __init__(self, config: TTTConfig, name: str) -> None:
        """Make the block of a sequence layer.

        Args:
            config: of the model.
            name: of the layer, as in `model.pattern`.

        Raises:
            MixerError: there is no such layer, or its options are wrong.
        """
        super().__init__()
        self.name = name
        self.seq_modeling_block: Mixer = build_mixer(name, config)
        has_mlp, width = self.seq_modeling_block.feed_forward, config.hidden_size
        self.mlp = SwiGLU(width, config.intermediate_size) if has_mlp else None
        self.conv = PreConv(config) if config.pre_conv else None
        self.seq_norm = RMSNorm(width, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(width, config.rms_norm_eps) if has_mlp else None

    def carry(self, batch: int, tokens: int) -> dict[str, Carried]:
        """All that the block hands on after `tokens` tokens, in the order in which forward meets it."""
        before = {} if self.conv is None else self.conv.carry(batch)
        own = self.seq_modeling_block.carry(batch, tokens)
        if not isinstance(own, dict) or before.keys() & own.keys():
            raise ValueError(
                f"gives {own!r:.60}; expected a dict of parts, none called {list(before)}"
            )
        return before | own

    def forward(self, x: Tensor, chunk: Chunk = WHOLE, ports: LayerPorts = NULL_PORTS) -> Tensor:
        """[B, C, D] -> [B, C, D]; the carry enters and leaves through `ports`."""
        before = None if self.conv is None else self.conv(x, chunk, ports)
        return self._around(x, before, lambda h: self.seq_modeling_block(h, chunk, ports))

    def step(self, x: Tensor, positions: Sequence[int], held: Parts) -> tuple[Tensor, Parts]:
        """Read one token of every row.

        Args:
            x: [B, 1, D].
            positions: tokens that each row has read before.
            held: what the layer has kept of them.

        Returns:
            [B, 1, D], and what it keeps now.
        """
        ports = HeldPorts(held)
        kept: Parts = {}

        def mix(h: Tensor) -> Tensor:
            """Run the sequence layer on the token."""
            y, own = self.seq_modeling_block.step(h, positions, held)
            kept.update(own)
            return y

        before = None if self.conv is None else self.conv.step(x, ports)
        x = self._around(x, before, mix)
        return x, kept | ports.sent()

    def _around(
        self,
        x: Tensor,
        before: tuple[Tensor, Tensor] | None,
        mix: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """All but the sequence layer; `before` is what the convolution gives, if there is one."""
        y, parts = None, (x,)
        if before is not None:
            x, y = parts = before
        x, h = self.seq_norm(x, y)
        y = mix(h)
        if (
            not isinstance(y, Tensor) or y.shape != h.shape
        ):  # None or a broadcast would pass unnoticed
            found = list(y.shape) if isinstance(y, Tensor) else f"{y!r:.60}"
            raise MixerError(
                f"{self.name}: forward returns {found}; expected a tensor {list(h.shape)}"
            )
        if self.mlp is None or self.ffn_norm is None:
            return x + y
        # For the backward only what a block adds to the stream is kept, in the compute dtype.
        x, h = self.ffn_norm(x, y, parts)
        return x + self.mlp(h)


class TTTModel(nn.Module):
    """Embedding, blocks and final norm (the official `model.` prefix)."""

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, name) for name in names_of(config))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class TTTForCausalLM(Layer):
    """A TTT language model with the official state_dict keys.

    `embed`, `blocks` and `head` make up `forward`; a sweep calls them chunk by chunk.
    """

    def __init__(self, config: TTTConfig, init: str = "torch", seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = TTTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        initialise(self, config, init, seed)

    @classmethod
    def of_modules(cls, config: TTTConfig, model: TTTModel, lm_head: nn.Linear) -> Self:
        """Make a model of modules that are there already; it shares them, and nothing is initialised."""
        made = cls.__new__(cls)
        Layer.__init__(made)
        made.config, made.model, made.lm_head = config, model, lm_head
        return made

    @property
    def blocks(self) -> nn.ModuleList:
        """The L blocks, first to last."""
        return self.model.layers

    @property
    def carry_layers(self) -> list[Block]:
        """The blocks, as those that declare the carry."""
        return [block for block in self.model.layers if isinstance(block, Block)]

    def embed(self, input_ids: Tensor) -> Tensor:
        """int64 [B, C] -> the residual stream [B, C, D], in fp32 or wider."""
        return embedded(input_ids, self.model.embed_tokens.weight)

    def head(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses of a chunk, and the losses [B, C] without gradient.

        Args:
            x: [B, C, D] after the last block.
            labels: int64 [B, C], already shifted: the token after each position, or -100.
        """
        _, x = self.model.norm(x)
        run = self.operators.cross_entropy
        total, losses = run(x.flatten(0, 1), self.lm_head.weight, labels.flatten())
        return total, losses.view_as(labels)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> CausalLMOutput:
        """Whole sequences [B, T]; labels are shifted here, as Hugging Face models do."""
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        _, x = self.model.norm(x)
        logits = widened(self.operators.linear(x, self.lm_head.weight))
        if labels is None:
            return CausalLMOutput(logits)
        loss = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        return CausalLMOutput(logits, loss)

    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]] | None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop_ids: Collection[int] = (),
        state: DecodeState | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
    ) -> "Generated":
        """Continue prompts, exactly as the whole forward would, at a cost for each token that stays the same.

        Args:
            input_ids: int64 [B, T], or a list of ids for each row; rows may differ in length. None: continue
                from `state` as it is.
            max_new_tokens: for each row.
            temperature: 0 takes the most likely token; otherwise tokens are drawn.
            top_k: draw from so many tokens only; None: all.
            top_p: draw from the fewest tokens whose probabilities sum up to it; None: all.
            min_p: draw from tokens at least so likely as this share of the most likely; None: all.
            seed: of the draws; row r has a generator of its own.
            stop_ids: tokens after which a row ends.
            state: what has been read before, as `Generated.state` or `load_state` returns it; it is not
                changed.
            beams: continuations of each row that are followed side by side, of which the one with the best
                score is returned; 1: tokens are chosen one by one.
            length_penalty: with beams, the score is the log-probability over the number of tokens to the
                power of this.

        Returns:
            The new tokens of each row, and states to continue from.

        Raises:
            ConfigError: a value is out of its range, a prompt is empty, an id is not the model's, or there is
                nothing to continue.
            MixerError: rows differ in length, and a layer cannot have that.
        """
        from tttscale.model.beams import Beams
        from tttscale.model.generation import generate
        from tttscale.model.sampling import Sampling

        wanted = Beams(beams, length_penalty)

        return generate(
            self,
            input_ids,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature, top_k, top_p, min_p, seed),
            stop_ids=stop_ids,
            state=state,
            beams=wanted if beams > 1 else None,
        )

    def set_inner_lr_scale(self, scale: float) -> None:
        """Multiply every layer's inner learning rate (its warm-up)."""
        for module in self.modules():
            if isinstance(module, TTTLayer):
                module.inner_lr_scale = scale

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors with the official keys."""
        from tttscale.model.pretrained import save_pretrained

        save_pretrained(self, directory)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | Literal["auto"] = torch.float32,
    ) -> Self:
        """Read what `save_pretrained` or the official code wrote, in one file of safetensors or several.

        Args:
            directory: of the model.
            device: where it computes.
            dtype: of the parameters; "auto": that of the files, if they have one, else fp32. States, norms
                and sums are fp32 or wider in any case.

        Raises:
            CheckpointError: files are missing, damaged or do not fit each other.
        """
        from tttscale.model.pretrained import from_pretrained

        return from_pretrained(cls, directory, device, dtype)
