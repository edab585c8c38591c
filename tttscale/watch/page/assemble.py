"""Putting the page together from its files, some of them the overlap report's."""

import html
from typing import Any

from tttscale.profile.page.assemble import embedded, filled, page_file

_SHARED = ("format.js",)
_SCRIPTS = ("chart.js", "watch.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page_html(snapshot: dict[str, Any], poll_seconds: float | None = None) -> str:
    """Return the whole page.

    Args:
        snapshot: what it shows at first.
        poll_seconds: how often it asks its server for news; None never asks, and needs no server.
    """
    own = __package__ or ""
    scripts = [page_file(name) for name in _SHARED] + [page_file(name, own) for name in _SCRIPTS]
    values = {
        "policy": _POLICY + ("; connect-src 'self'" if poll_seconds is not None else ""),
        "title": html.escape(f"{snapshot['run']}: run"),
        "style": page_file("page.css") + page_file("watch.css", own),
        "data": embedded({"snapshot": snapshot, "pollSeconds": poll_seconds}),
        "script": "\n".join(scripts),
    }
    return filled(page_file("template.html", own), values)
