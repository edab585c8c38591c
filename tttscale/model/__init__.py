"""The language model and its sequence layers. Names are resolved on first use: the config needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tttscale.model.architecture import TTTConfig
from tttscale.model.registry import mixer

if TYPE_CHECKING:
    from tttscale.check_mixer import check_mixer
    from tttscale.model.language_model import CausalLMOutput, TTTForCausalLM
    from tttscale.model.sequence_layer import Carried, Mixer, recv_state, send_state

__all__ = [
    "Carried",
    "CausalLMOutput",
    "Mixer",
    "TTTConfig",
    "TTTForCausalLM",
    "check_mixer",
    "mixer",
    "recv_state",
    "send_state",
]
_HOMES = {
    "TTTForCausalLM": "tttscale.model.language_model",
    "CausalLMOutput": "tttscale.model.language_model",
    "Carried": "tttscale.model.ports",
    "Mixer": "tttscale.model.sequence_layer",
    "recv_state": "tttscale.model.sequence_layer",
    "send_state": "tttscale.model.sequence_layer",
    "check_mixer": "tttscale.check_mixer",  # runs sweeps over ranks, so it stands above this folder
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
