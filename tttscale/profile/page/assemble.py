"""Putting the page together from its files; nothing in it is fetched from anywhere."""

import html
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from tttscale.observe.spans import Trace
from tttscale.profile.page.pack import packed

_SCRIPTS = (
    "format.js",
    "decode.js",
    "palette.js",
    "view.js",
    "wavefront.js",
    "overview.js",
    "pointer.js",
    "charts.js",
    "tables.js",
    "heat.js",
    "main.js",
)


def page_html(report: dict[str, Any], measured: Trace, predicted: Trace | None = None) -> str:
    """Return the whole page.

    Args:
        report: as report.json has it.
        measured: drawn rank by time.
        predicted: drawn below it, from the same begin of a step.
    """
    traces = {"measured": packed(measured)}
    if predicted is not None:
        traces["predicted"] = packed(predicted)
    values = {
        "title": html.escape(f"{report['run']}: overlap report"),
        "style": page_file("page.css"),
        "data": embedded({"report": report, "traces": traces}),
        "script": "\n".join(page_file(name) for name in _SCRIPTS),
    }
    return filled(page_file("template.html"), values)


def filled(template: str, values: Mapping[str, str]) -> str:
    """Put `values` in a template in place of the {{names}} that stand there.

    One pass over the template: what is put in is never searched for names itself.
    """
    pieces = template.split("{{")
    return pieces[0] + "".join(values[name] + rest for name, rest in map(_at_mark, pieces[1:]))


def _at_mark(piece: str) -> tuple[str, str]:
    name, _, rest = piece.partition("}}")
    return name, rest


def embedded(value: Any) -> str:
    """Return JSON that no HTML parser takes for a tag or a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_file(name: str, package: str = __package__ or "") -> str:
    """Return a file that pages are made of, this package's unless another is named."""
    return (resources.files(package) / name).read_text("utf-8")
