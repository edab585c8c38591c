"""MkDocs hook: the table of exit codes, from the one that the command uses."""

from typing import Any

from mkdocs.structure.pages import Page

from tttscale.codes import CODES

PLACE = "<!-- every exit code, from tttscale.codes -->"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the table where the page asks for it."""
    return markdown.replace(PLACE, table())


def table() -> str:
    """One row per code: number, name, meaning, and whether a launcher may repeat the command."""
    rows = [
        f"| {code.number} | {code.name} | {code.meaning} | {'yes' if code.retry else 'no'} |"
        for code in CODES
    ]
    return "\n".join(["| code | name | meaning | again |", "|---|---|---|---|", *rows])
