"""The transformers library, and all that differs between its lines 4.57 and 5."""

from dataclasses import fields
from typing import Any

from tttscale.errors import ConfigError
from tttscale.packages import needed

_OLDEST = 4, 57


def _load() -> Any:
    """Import the library.

    Raises:
        ConfigError: it is not installed, cannot be loaded, or is too old.
    """
    remedy = "Run `pip install 'tttscale[hf]'`, or in a checkout `pip install -e '.[hf]'`."
    with needed("transformers", "tttscale.hf", remedy, ConfigError):
        import transformers  # pyright: ignore[reportMissingImports]
        from transformers import PreTrainedModel  # noqa: F401  # pyright: ignore
    if _numbers(transformers.__version__) < _OLDEST:
        raise ConfigError(
            f"tttscale.hf needs transformers {'.'.join(map(str, _OLDEST))} or newer; this is "
            f"{transformers.__version__}. {remedy}"
        )
    return transformers


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


transformers = _load()
"""The library; a module without types here, since it need not be installed."""
IS_4 = _numbers(transformers.__version__)[0] == 4
Config: Any = transformers.PretrainedConfig if IS_4 else transformers.PreTrainedConfig
"""Base of configurations."""
Output: Any = transformers.modeling_outputs.CausalLMOutputWithPast
"""What a causal language model returns."""
CACHE = "cache" if "cache" in {field.name for field in fields(Output)} else "past_key_values"
"""How `generate` and outputs call the cache: by a new name from one of the 5.x on."""
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TIED: Any = [_HEAD] if IS_4 else {_HEAD: _EMBEDDING}
"""Value of `_tied_weights_keys`: names of tied weights; from 5 on with what they are tied to."""


def first_column(arguments: dict[str, Any], width: int, read: int) -> int:
    """Find the first column of `input_ids` that the next call of the model has to read.

    Args:
        arguments: of `prepare_inputs_for_generation`.
        width: columns of `input_ids`: all so far, or only those that are new.
        read: columns that the cache has read.
    """
    if IS_4:
        position = arguments.get("cache_position")
        return read if position is None else max(width - len(position), 0)
    new = arguments.get("next_sequence_length")
    return 0 if new is None else min(max(width - new, 0), width)
