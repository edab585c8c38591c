"""The TTT language model. Names are resolved on first use, so that the config needs no torch."""

from typing import TYPE_CHECKING, Any

from tttscale.model.architecture import TTTConfig

if TYPE_CHECKING:
    from tttscale.model.language_model import CausalLMOutput, TTTForCausalLM

__all__ = ["CausalLMOutput", "TTTConfig", "TTTForCausalLM"]


def __getattr__(name: str) -> Any:
    if name in ("TTTForCausalLM", "CausalLMOutput"):
        from tttscale.model import language_model

        return getattr(language_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
