"""The files of a profile are written whole or not at all, wherever a trace comes from."""

import json
from dataclasses import replace

import pytest

from tests.profile.reports import job_of, setting_of
from tests.traces import BYTES, make_trace
from tttscale.errors import ConfigError
from tttscale.observe.overlap import analyse
from tttscale.profile import results as module
from tttscale.profile.fitted_costs import fit
from tttscale.profile.results import check_results_folder, results_of, summary, write_results

FILES = ["report.html", "report.json", "report.md", "trace.json.gz"]


@pytest.fixture(scope="module")
def results():
    trace = make_trace(2, 8, 2, origin="rehearsed")
    found = analyse(trace)
    job = job_of(trace, fit([(trace, found)], ("ttt-linear",) * 2, BYTES))
    return results_of(trace, found, job, setting_of(trace), ["a note"])


def test_all_files_say_the_same(tmp_path, results):
    folder = tmp_path / "new/folder"
    write_results(folder, results, 1_000_000)
    assert sorted(p.name for p in folder.iterdir()) == FILES
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(results.report))
    assert report["origin"] == "rehearsed"
    for name in ("report.html", "report.md"):
        assert report["headline"][0]["value"] in (folder / name).read_text()
    rows = {row["name"]: row for row in report["comparison"]}
    assert rows["memory, of the fullest rank"]["predicted"] == 102 << 20


def test_what_was_cut_of_the_trace_is_said(tmp_path, results):
    write_results(tmp_path, results, 500)
    assert "Of trace.json.gz: spans shorter" in (tmp_path / "report.json").read_text()


def test_a_failure_leaves_the_earlier_files(tmp_path, results, monkeypatch):
    write_results(tmp_path, results, 1_000_000)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(module, "report_markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_results(tmp_path, replace(results, trace=make_trace(3, 9, 1)), 1_000_000)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be(tmp_path, results):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ConfigError, match=r"--out .*is not a folder"):
            check_results_folder(folder)
    with pytest.raises(ConfigError, match="file is not a folder"):
        write_results(tmp_path / "file", results, 1000)
    check_results_folder(tmp_path / "new/one")
    assert not (tmp_path / "new").exists()


def test_the_console_names_what_would_help(tmp_path, results):
    text = summary(results, tmp_path)
    assert results.report["verdict"] in text
    assert "parallel.keep_chunks=4: about" in text
    assert text.count("parallel.") <= 4
    assert str(tmp_path / "report.html") in text
    nothing = replace(
        results, report={**results.report, "advice": [], "headline": [], "cautions": ["mind it"]}
    )
    assert "mind it" in summary(nothing, tmp_path)
    assert "would help" not in summary(nothing, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_replaced_where_one_name_is_taken(tmp_path, results, name):
    write_results(tmp_path, results, 1_000_000)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(ConfigError, match=rf"{name} is a folder"):
        write_results(tmp_path, replace(results, trace=make_trace(3, 9, 1)), 1_000_000)
    with pytest.raises(ConfigError, match=rf"--report .*{name} is a folder"):
        check_results_folder(tmp_path, "--report")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_no_result_replaces_a_link(tmp_path, results):
    (tmp_path / "report.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"report\.md is a link"):
        write_results(tmp_path, results, 1_000_000)
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
