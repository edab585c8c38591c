"""The configuration of a TTT model as transformers knows it: the fields of config.json and their checks."""

from typing import Any, ClassVar

from pydantic import ValidationError

from tttscale.errors import ConfigError
from tttscale.hf.library import Config
from tttscale.model.architecture import TTTConfig as Shape
from tttscale.model.auto_map import AUTO_MAP


class TTTConfig(Config):
    """Fields of `tttscale.model.TTTConfig`, with its defaults."""

    model_type = "ttt"
    keys_to_ignore_at_inference: ClassVar = ["past_key_values", "cache"]

    def __init__(self, **fields: Any) -> None:
        """Take the fields of a model and those that every configuration of transformers has.

        Raises:
            ConfigError: a value is out of its range.
        """
        own = {name: fields.pop(name) for name in Shape.model_fields if name in fields}
        shape = _checked(own)
        super().__init__(**fields)
        for name in Shape.model_fields:
            setattr(self, name, getattr(shape, name))
        self.auto_map = dict(AUTO_MAP)

    def architecture(self) -> Shape:
        """The shape of the model.

        Raises:
            ConfigError: a field that was set since is out of its range.
        """
        return _checked({name: getattr(self, name) for name in Shape.model_fields})

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Leave the class where it is: a saved folder imports it, so its source is not copied there."""


def _checked(fields: dict[str, Any]) -> Shape:
    try:
        return Shape(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"]))
        what = f"{name} = {problem['input']!r:.60}: " if name else ""
        raise ConfigError(f"TTTConfig: {what}{problem['msg']}") from None
