"""The `model` section: the official config fields, a preset, and how the weights start."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationInfo, field_validator, model_validator

from tttscale.config.numbers import Count, NonNegative, parse_float, parse_int
from tttscale.config.paths import FolderPath
from tttscale.model.architecture import TTTConfig, preset_fields, preset_names


def _known_preset(name: str | None) -> str | None:
    if name is not None and name not in preset_names():
        raise ValueError(f"expected one of {', '.join(preset_names())}")
    return name


_OFFICIAL_NUMBERS = {
    name: parse_float if field.annotation is float else parse_int
    for name, field in TTTConfig.model_fields.items()
    if field.annotation in (int, float, int | None)
}


class ModelSection(TTTConfig):
    """The official config fields, filled in from `preset`, and how the weights start."""

    preset: Annotated[str | None, AfterValidator(_known_preset)] = None
    """A named size of the paper; fields given beside it win over the preset's."""
    init: Literal["torch", "jax"] = "torch"
    """Initialise as the PyTorch reference does, or as the JAX training code does."""
    inner_lr_warmup_steps: Count = 0
    """Steps over which the inner learning rate climbs to ttt_base_lr; 0 = none."""
    inner_lr_warmup_init: NonNegative = 0.01
    """Inner learning rate at the start of that climb."""
    initial_weights: FolderPath | None = None
    """A model folder, ours or the official class's, to start from instead of `init`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, fields: Any) -> Any:
        preset = fields.get("preset") if isinstance(fields, dict) else None
        return {**preset_fields(preset), **fields} if preset in preset_names() else fields

    @field_validator(*_OFFICIAL_NUMBERS, mode="before")
    @classmethod
    def _human_number(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value is None else _OFFICIAL_NUMBERS[str(info.field_name)](value)
