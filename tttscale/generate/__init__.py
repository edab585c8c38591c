"""Text from a trained model: `tttscale generate`, and states that are kept in files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tttscale.generate.state_file import fingerprints, load_state, save_state

__all__ = ["fingerprints", "load_state", "save_state"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("tttscale.generate.state_file"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
