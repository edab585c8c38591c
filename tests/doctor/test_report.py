"""The findings as lines and as JSON."""

from tttscale.doctor.findings import ok, problem, warning
from tttscale.doctor.report import Report


def test_a_report_shows_no_credentials_and_of_other_hosts_what_is_not_ok():
    told = problem("https://name:hidden1@host/x does not answer", "try")
    report = Report([("a", ok("one")), ("b", ok("two")), ("b", warning("three", "do"))])
    assert report.exit_code == 0
    assert report.text().splitlines()[:3] == [
        "ok       a: one",
        "warning  b: three",
        "           -> do",
    ]
    report.findings.append(("", told))
    assert report.exit_code == 1
    assert "1 problem(s), 1 warning(s)" in report.text()
    assert "hidden1" not in report.text() + report.json()
