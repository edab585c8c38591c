"""MkDocs hook: the configuration reference, formed from the schema that checks every run."""

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tttscale.config.schema import Config
from tttscale.model.architecture import preset_fields, preset_names

PLACE = "<!-- every key, from tttscale.config.schema -->"
PRESETS = "<!-- every preset, from tttscale.model.architecture -->"
_KINDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the tables where the page asks for them."""
    return markdown.replace(PLACE, reference()).replace(PRESETS, presets())


def reference() -> str:
    """One table per section: key, type, default, meaning."""
    return "\n".join(_section(name, model, text) for name, model, text in sections())


def sections() -> Iterator[tuple[str, type[BaseModel], str]]:
    """(name, model, meaning) of every section, nested ones after the one that holds them."""
    yield from _sections(Config, "")


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            path = f"{prefix}{name}"
            yield path, inner, field.description or ""
            yield from _sections(inner, f"{path}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Sections that a key's value is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _section(name: str, model: type[BaseModel], text: str) -> str:
    lines = [
        f"### {name} {{ #{name} }}",
        "",
        _sentence(text),
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, field in model.model_fields.items():
        if any(True for _ in models_in(field.annotation)) and not _is_list(field.annotation):
            continue
        path = f"{name}.{key}"
        cells = (
            f"`{path}`{{ #{path} }}",
            kind(field),
            default(field),
            _sentence(field.description),
        )
        lines.append(f"| {' | '.join(_in_cell(cell) for cell in cells)} |")
    return "\n".join([*lines, ""])


def _is_list(annotation: Any) -> bool:
    inner = get_args(annotation)
    return get_origin(annotation) is tuple or any(map(_is_list, inner))


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def kind(field: FieldInfo) -> str:
    """The values of a key in words, such as "whole number ≥ 1, or null"."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Any = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        base, *more = inner
        constraints = [m for item in more for m in getattr(item, "metadata", [item])]
        return _words(base, constraints)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        words = [_words(part, metadata) for part in inner if part is not type(None)]
        if type(None) in inner:
            words.append("`null`")
        return ", or ".join(words)
    if origin is tuple:
        if Ellipsis in inner:
            return f"list of {_words(inner[0])}"
        return f"list of {len(inner)}: {_words(inner[0])}"
    if origin in (list, dict):
        return f"{'list of' if origin is list else 'map of names to'} {_words(inner[-1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(annotation.model_fields) + "}"
    limits = "".join(
        f" {_SIGNS[bound]} {getattr(item, bound):g}"
        for item in metadata
        if isinstance(item, Ge | Gt | Le | Lt)
        for bound in _SIGNS
        if hasattr(item, bound)
    )
    return _KINDS.get(annotation, getattr(annotation, "__name__", str(annotation))) + limits


def default(field: FieldInfo) -> str:
    """The default as YAML writes it."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def presets() -> str:
    """One row per preset without a backbone suffix."""
    names = [name for name in preset_names() if not name.endswith("-transformer")]
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    lines = ["| preset | " + " | ".join(f"`{key}`" for key in keys) + " | `ttt_base_lr` |"]
    lines.append("|---" * (len(keys) + 2) + "|")
    for name in names:
        fields = preset_fields(name)
        lines.append(
            f"| `{name}` | {' | '.join(str(fields[key]) for key in keys)} | {fields['ttt_base_lr']} |"
        )
    return "\n".join(lines)
