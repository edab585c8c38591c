"""What callers give a model: checked, and refused where a TTT model has nothing like it."""

from typing import Any

import torch
from torch import Tensor

from tttscale.errors import ConfigError
from tttscale.hf.cache import TTTCache

REFUSED = {
    "inputs_embeds": "give input_ids",
    "position_ids": "leave them out: attention_mask says what is padding, and the cache counts",
    "token_type_ids": "leave them out (tokenizer(..., return_token_type_ids=False))",
    "output_attentions": "there is no attention",
    "output_hidden_states": "call model.core's blocks one after the other",
}
"""Arguments that other models take, and what to do without them."""


def refuse(others: dict[str, Any]) -> None:
    """Refuse arguments of other models.

    Raises:
        ConfigError: one asks for something.
    """
    for name, value in others.items():
        if value is not None and value is not False:
            advice = REFUSED.get(name, "leave it out")
            raise ConfigError(f"{name} is nothing that a TTT model takes: {advice}")


def checked_ids(input_ids: Tensor | None) -> Tensor:
    """Return ids [B, T] that can be read.

    Raises:
        ConfigError: there are none.
    """
    if input_ids is None or input_ids.dim() != 2 or 0 in input_ids.shape:
        found = None if input_ids is None else list(input_ids.shape)
        raise ConfigError(
            "input_ids: expected [rows, tokens] with a token or more, such as the tokenizer's bos; got "
            f"{found}"
        )
    return input_ids


def real_tokens(attention_mask: Tensor | None, ids: Tensor, before: int) -> Tensor | None:
    """Find where tokens are and where padding.

    Args:
        attention_mask: of the columns of `ids`, or of those before them, too; 0 at padding.
        ids: [B, T].
        before: columns that have been read.

    Returns:
        bool [B, T] on the CPU; None: there is no padding.

    Raises:
        ConfigError: the mask has another shape.
    """
    if attention_mask is None:
        return None
    rows, columns = ids.shape
    shapes = [[rows, columns], [rows, before + columns]]
    if list(attention_mask.shape) not in shapes:
        wanted = " or ".join(map(str, shapes[: 2 if before else 1]))
        raise ConfigError(
            f"attention_mask is {list(attention_mask.shape)}: expected {wanted}, 1 for tokens and 0 for "
            "padding"
        )
    real = attention_mask[:, -columns:].to("cpu", torch.bool)
    return None if bool(real.all()) else real


def one_cache(*names: Any) -> TTTCache | None:
    """Return the one that was given, under whichever name.

    Raises:
        ConfigError: there are two, or it is another model's.
    """
    given = [each for each in names if each is not None]
    if len(given) > 1:
        raise ConfigError(
            "cache and past_key_values are two names of one argument; give one of them"
        )
    if given and not isinstance(given[0], TTTCache):
        raise ConfigError(
            f"the cache is a {type(given[0]).__name__}; a TTT model continues from a tttscale.hf.TTTCache, "
            "as its output holds one"
        )
    return given[0] if given else None


def take_cache(arguments: dict[str, Any]) -> TTTCache | None:
    """Take the cache out of the arguments of `generate`; see `one_cache`."""
    return one_cache(*(arguments.pop(name, None) for name in ("past_key_values", "cache")))
