"""The doctor's findings as lines or as JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

from tttscale.doctor.findings import Finding, Level
from tttscale.doctor.job import Place, table
from tttscale.doctor.link import Link, describe
from tttscale.scrub import scrubbed

_WIDTH = max(map(len, Level))


@dataclass
class Report:
    """What was found so far."""

    findings: list[tuple[str, Finding]] = field(default_factory=list)
    """(host, finding); the host is empty for what concerns the whole job."""
    places: list[Place] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    clock_offsets_seconds: list[float] = field(default_factory=list)

    def count(self, level: Level) -> int:
        """Findings of a level."""
        return sum(finding.level == level for _, finding in self.findings)

    @property
    def exit_code(self) -> int:
        """1 if there is a problem, else 0."""
        return int(self.count(Level.PROBLEM) > 0)

    def text(self) -> str:
        """Lines for people, without credentials; of other hosts than the first only what is not ok."""
        hosts = list(dict.fromkeys(host for host, _ in self.findings if host))
        lines = [
            line
            for host, finding in self.findings
            if finding.level is not Level.OK or host in ("", *hosts[:1])
            for line in _lines(finding, host if len(hosts) > 1 else "")
        ]
        if self.places:
            lines += ["", *table(self.places)]
        if self.links:
            lines.append("")
            lines += [
                f"{link.source} -> {link.target}  {link.transport:<4}  {describe(link)}"
                for link in self.links
            ]
        lines += ["", self._sum()]
        return scrubbed("\n".join(lines))

    def json(self) -> str:
        """The same for programs."""
        value: dict[str, Any] = {
            "problems": self.count(Level.PROBLEM),
            "warnings": self.count(Level.WARNING),
            "findings": [
                {"level": f.level, "host": host, "what": scrubbed(f.what), "remedy": f.remedy}
                for host, f in self.findings
            ],
            "ranks": [place._asdict() for place in self.places],
            "links": [link._asdict() for link in self.links],
            "clock_offsets_seconds": self.clock_offsets_seconds,
        }
        return json.dumps(value, indent=2)

    def _sum(self) -> str:
        problems, warnings = self.count(Level.PROBLEM), self.count(Level.WARNING)
        if not problems and not warnings:
            return "all is well"
        return f"{problems} problem(s), {warnings} warning(s)"


def _lines(finding: Finding, host: str) -> list[str]:
    where = f"{host}: " if host else ""
    lines = [f"{finding.level:<{_WIDTH}}  {where}{finding.what}"]
    return lines + [f"{'':<{_WIDTH}}    -> {finding.remedy}"] * bool(finding.remedy)
