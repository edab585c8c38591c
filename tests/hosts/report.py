"""The report of a run: one row a case, as the cases noted it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tttscale.bench import report as written

COLUMNS = ("launcher", "hosts", "command", "result")
LINK = "link"
TITLE = "Several hosts, made of namespaces of one machine"
LEGEND = (
    "One rank a host. Medians of the steps after the first; exposed time holds the wait for a rank that is "
    "behind. Carries: counted from the layers' own declaration; sent: at both hosts' interfaces, with the "
    "gradients of the parameters, and all headers. Both hosts share the cores of one machine that does other "
    "things, too: bytes can be compared, and seconds only roughly.\n\n"
)


class Collector:
    """A plugin that keeps what cases have noted, and writes it down at the end."""

    def __init__(self, out: Path | None, words: Sequence[str]) -> None:
        self._out = out
        self._command = shlex.join(["bash", "tests/cluster.sh", *words])
        self._rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the row of a case that has ended, or that could not begin."""
        if report.when != "call" and report.passed:
            return
        noted = dict(report.user_properties)
        if not noted and report.when == "teardown":
            return
        noted.setdefault("case", report.nodeid.split("::")[-1])
        self._rows.append({**noted, "outcome": report.outcome})

    def pytest_sessionfinish(self) -> None:
        """Write the report that --out asks for."""
        if self._out is not None and self._rows:
            written.write(self._out, TITLE, sections(self._rows), self._rows, self._command)


def render(out: Path) -> None:
    """Write OUT.md again from OUT.json."""
    facts, rows = written.read(out)
    written.write_page(out, TITLE, facts, sections(rows))


def sections(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Heading and text of each table."""
    links = [line for row in rows if LINK in row for line in _links(row)]
    launched = [_launched(row) for row in rows if LINK not in row]
    found = [("Launchers", written.table(launched))] if launched else []
    columns = dict.fromkeys(name for line in links for name in line)
    filled = [{name: line.get(name, "") for name in columns} for line in links]
    return [*found, ("Links", LEGEND + written.table(filled))] if links else found


def _launched(row: dict[str, Any]) -> dict[str, str]:
    bad = row["outcome"] != "passed"
    found = {name: row.get(name, "") for name in COLUMNS}
    found["launcher"] = found["launcher"] or row["case"]
    found["command"] = f"`{found['command']}`" if found["command"] else ""
    return {**found, "result": f"**{row['outcome']}**" if bad else found["result"]}


def _links(row: dict[str, Any]) -> list[dict[str, str]]:
    """One row a layout, of what was noted as `layout: column`."""
    found: dict[str, dict[str, str]] = {}
    for name, value in row.items():
        layout, colon, column = name.partition(": ")
        if colon:
            head = {"link": row[LINK], "layout": layout}
            found.setdefault(layout, head)[column] = value
    bad = {"outcome": f"**{row['outcome']}**"}
    return [
        {**columns, **bad} if row["outcome"] != "passed" else columns for columns in found.values()
    ]
