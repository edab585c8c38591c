"""Stands in for pydantic on a machine that has torch and triton only, so that a GPU round needs no package.

As far as `tttscale.model` needs it: fields with defaults, no unknown names, frozen, validators that
run after. Types and bounds are not checked: the only configurations of a round are its own. Anything else of
pydantic is an ImportError here. `benchmarks.gpu.machine` puts this folder on a worker's path if pydantic is
missing; no other place may.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Self

__version__ = "stand-in"
_MISSING = object()


class ValidationError(ValueError):
    """A model was given fields that do not fit."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(f"{field}: {said}")
        self._errors = [{"type": said, "loc": (field,), "msg": said, "input": None}]

    def errors(self, **_: Any) -> list[dict[str, Any]]:
        """List what does not fit, as pydantic does; it is one field here."""
        return self._errors


class _Made:
    """A default that each model makes for itself."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def Field(  # noqa: N802, as pydantic has it
    default: Any = _MISSING, *, default_factory: Callable[[], Any] | None = None, **_: Any
) -> Any:
    """Give a field its default; bounds and descriptions are not used."""
    return default if default_factory is None else _Made(default_factory)


def ConfigDict(**options: Any) -> dict[str, Any]:  # noqa: N802
    """Take the options of a model; all models here are frozen and forbid unknown names."""
    return options


def model_validator(*, mode: str) -> Callable[[Any], Any]:
    """Mark a method to be called when all fields are set."""
    if mode != "after":
        raise NotImplementedError(f"mode {mode!r}: this stand-in has 'after' only")

    def mark(method: Any) -> Any:
        method.validates = True
        return method

    return mark


class BaseModel:
    """Fields are the annotated names of the class and its bases."""

    model_config: ClassVar[dict[str, Any]] = {}
    model_fields: ClassVar[dict[str, Any]] = {}
    """Name -> default."""
    _validators: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = [name for name in cls.__annotations__ if name[0] != "_" and name != "model_config"]
        cls.model_fields = {
            **cls.model_fields,
            **{name: cls.__dict__.get(name, _MISSING) for name in own},
        }
        validators = [name for name, x in vars(cls).items() if hasattr(x, "validates")]
        cls._validators = (*cls._validators, *validators)

    def __init__(self, **given: Any) -> None:
        for name in given.keys() - self.model_fields.keys():
            raise ValidationError(name, "extra_forbidden")
        defaults = self.model_fields.items()
        made = {name: x.make() if isinstance(x, _Made) else x for name, x in defaults}
        values = {**made, **given}
        for name in (name for name, value in values.items() if value is _MISSING):
            raise ValidationError(name, "missing")
        vars(self).update(values)
        for name in self._validators:
            getattr(self, name)()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    @classmethod
    def model_validate(cls, given: dict[str, Any]) -> Self:
        """Make a model from its fields."""
        return cls(**given)

    def model_dump(self) -> dict[str, Any]:
        """All fields."""
        return dict(vars(self))
