"""The report of a run: one row a case, as the cases noted it."""

from pathlib import Path
from typing import Any

import pytest

from tttscale.bench import report

COLUMNS = ("launcher", "hosts", "command", "result")
LINKS = "link"


class Collector:
    """A plugin that keeps what cases have noted, and writes it down at the end."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
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
            links = [row for row in self._rows if LINKS in row]
            launched = [_launched(row) for row in self._rows if LINKS not in row]
            sections = [("Launchers", report.table(launched))] if launched else []
            if links:
                sections.append(("Links", report.table([_link(row) for row in links])))
            command = f"bash tests/cluster.sh --out benchmarks/{self._out.name}"
            report.write(self._out, "Several hosts", sections, self._rows, command)


def _launched(row: dict[str, Any]) -> dict[str, str]:
    bad = row["outcome"] != "passed"
    found = {name: row.get(name, "") for name in COLUMNS}
    found["launcher"] = found["launcher"] or row["case"]
    found["command"] = f"`{found['command']}`" if found["command"] else ""
    return {**found, "result": f"**{row['outcome']}**" if bad else found["result"]}


def _link(row: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in ("case", "outcome", "result")}
