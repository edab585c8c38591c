"""The shape of a TTT language model: the official config fields and the paper's sizes. No torch here."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tttscale.kernels.learners import LEARNERS


class TTTConfig(BaseModel):
    """Fields of the official `config.json` (ttt-lm-pytorch, `TTTConfig`), with its defaults."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    vocab_size: int = Field(32000, gt=0)
    """Number of token ids."""
    hidden_size: int = Field(2048, gt=0)
    """Width D of the residual stream."""
    intermediate_size: int = Field(5504, gt=0)
    """Width of the SwiGLU feed-forward."""
    num_hidden_layers: int = Field(24, gt=0)
    """Number of blocks L."""
    num_attention_heads: int = Field(32, gt=0)
    """Number of TTT heads H; the head dim is hidden_size / num_attention_heads."""
    hidden_act: Literal["silu"] = "silu"
    """Activation of the feed-forward; the official models use silu only."""
    max_position_embeddings: int = Field(2048, gt=0)
    """Kept for config.json; the layer does not use it (positions are taken modulo mini_batch_size)."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of normally initialised weights."""
    rms_norm_eps: float = Field(1e-6, gt=0)
    """Epsilon of RMSNorm."""
    use_cache: bool = False
    """Kept for config.json."""
    pad_token_id: int | None = None
    """Kept for config.json."""
    bos_token_id: int | None = 1
    """Kept for config.json."""
    eos_token_id: int | None = 2
    """Kept for config.json."""
    pretraining_tp: int = 1
    """Kept for config.json."""
    tie_word_embeddings: bool = True
    """Whether the head shares the embedding matrix."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary angles."""
    use_gate: bool = False
    """Gate the TTT output with gelu(h W_g)."""
    share_qk: bool = False
    """Derive q and k from one projection through two causal convolutions."""
    ttt_layer_type: Literal["linear", "mlp"] = "linear"
    """The inner learner."""
    ttt_base_lr: float = Field(1.0, gt=0)
    """Base learning rate of the inner learner (paper: 1.0 linear, 0.1 mlp)."""
    mini_batch_size: int = Field(16, gt=0)
    """Tokens K per inner gradient step."""
    pre_conv: bool = False
    """A causal convolution with a residual in front of every TTT layer."""
    conv_kernel: int = Field(4, ge=2)
    """Taps of every causal convolution."""
    pattern: tuple[str, ...] | None = Field(None, min_length=1)
    """Sequence layers by name, repeated over all blocks, such as [ttt-linear, ttt-mlp, my_file:MyMixer];
    null = ttt_layer_type in every block."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of each kind of sequence layer, by its name in pattern, such as {ttt-mlp: {base_lr: 0.1}}."""
    scan_checkpoint_group_size: int = 0
    """Kept for config.json; this project checkpoints the scan by itself."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head dim {self.head_dim} is odd; rotary positions need an even one")
        return self

    @property
    def head_dim(self) -> int:
        """Features per head, f = D / H."""
        return self.hidden_size // self.num_attention_heads

    @property
    def state_floats(self) -> int:
        """Floats of one layer's inner weights for one sequence: H(f²+f), or H(8f²+5f) for mlp."""
        return self.num_attention_heads * LEARNERS[self.ttt_layer_type].floats(self.head_dim)

    @property
    def tail_floats(self) -> int:
        """Floats of one layer's convolution tails for one sequence."""
        convolutions = int(self.pre_conv) + int(self.share_qk)
        return convolutions * (self.conv_kernel - 1) * self.hidden_size


SHOWN = frozenset(
    {
        *(
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ),
        *("tie_word_embeddings", "use_gate", "share_qk", "pre_conv", "conv_kernel"),
        *("ttt_layer_type", "mini_batch_size"),
    }
)
"""Fields that the names and shapes of weights show."""
INERT = frozenset(
    {
        *("initializer_range", "max_position_embeddings", "use_cache", "pretraining_tp"),
        *("pad_token_id", "bos_token_id", "eos_token_id", "scan_checkpoint_group_size"),
    }
)
"""Fields that a model with its weights computes nothing with. All others decide what weights mean."""

_SIZES: dict[str, dict[str, int]] = {  # paper, table of sizes (appendix C)
    "125m": dict(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12
    ),
    "350m": dict(
        hidden_size=1024, intermediate_size=2736, num_hidden_layers=24, num_attention_heads=16
    ),
    "760m": dict(
        hidden_size=1536, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    ),
    "1.3b": dict(
        hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=32
    ),
}
_BACKBONES: dict[str, dict[str, bool]] = {
    "mamba": dict(share_qk=True, use_gate=True, pre_conv=True),
    "transformer": dict(share_qk=False, use_gate=False, pre_conv=False),
}
_LEARNERS: dict[str, dict[str, Any]] = {
    "linear": dict(ttt_layer_type="linear", ttt_base_lr=1.0),
    "mlp": dict(ttt_layer_type="mlp", ttt_base_lr=0.1),
}


def preset_names() -> list[str]:
    """All names that `preset_fields` knows; without a backbone suffix the backbone is mamba."""
    return [
        f"ttt-{learner}-{size}{suffix}"
        for learner in _LEARNERS
        for size in _SIZES
        for suffix in ("", "-transformer")
    ]


def preset_fields(name: str) -> dict[str, Any]:
    """Config fields of a named size, e.g. `ttt-linear-125m` or `ttt-mlp-1.3b-transformer`.

    Raises:
        KeyError: the name is not one of `preset_names()`.
    """
    if name not in preset_names():
        raise KeyError(name)
    base = name.removesuffix("-transformer")
    backbone = "mamba" if base == name else "transformer"
    _, learner, size = base.split("-")
    return {**_SIZES[size], **_BACKBONES[backbone], **_LEARNERS[learner]}
