"""The files of an evaluation: whole, merged for the same weights, replaced for others."""

import json

import pytest

from tests.evaluate import results
from tttscale.errors import ConfigError
from tttscale.evaluate.options import TASKS
from tttscale.evaluate.report import FILES, PLOTS, check_report, summary, write_report

PNG = b"\x89PNG"


def test_every_task_has_a_plot():
    assert list(PLOTS) == list(TASKS)


def test_all_files_are_written(tmp_path):
    tasks = results.everything()
    report = write_report(tmp_path / "eval", results.MODEL, tasks)
    assert sorted(p.name for p in (tmp_path / "eval").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "eval/eval.json").read_text()) == report
    for name, _ in PLOTS.values():
        assert (tmp_path / "eval" / name).read_bytes().startswith(PNG)
        assert f"]({name})" in (tmp_path / "eval/eval.md").read_text()
    said = summary(report, tasks, tmp_path / "eval")
    assert all(name in said for name in FILES)


def test_the_same_results_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(tmp_path / name, results.MODEL, {"loss": results.loss()})
    for file in ("eval.json", "eval.md", "loss_by_position.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_other_tasks_of_the_same_weights_stay(tmp_path):
    write_report(tmp_path, results.MODEL, {"loss": results.loss()})
    report = write_report(tmp_path, results.MODEL, {"passkey": results.heat()})
    assert list(report["tasks"]) == ["loss", "passkey"]
    assert (tmp_path / "eval.md").read_text().count("![") == 2


def test_results_of_other_weights_are_replaced(tmp_path, caplog):
    write_report(tmp_path, results.MODEL, {"loss": results.loss()})
    other = results.MODEL | {"fingerprint": "cd" * 16}
    report = write_report(tmp_path, other, {"passkey": results.heat()})
    assert list(report["tasks"]) == ["passkey"]
    assert "was of other weights" in caplog.text
    assert not (tmp_path / "loss_by_position.png").exists()


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": 3}', "no json", '{"model": {}}'])
def test_a_file_of_someone_else_is_kept(tmp_path, content):
    (tmp_path / "eval.json").write_text(content)
    with pytest.raises(ConfigError, match=r"eval\.json.*--out"):
        write_report(tmp_path, results.MODEL, {"loss": results.loss()})
    with pytest.raises(ConfigError, match=r"eval\.json.*--out"):
        check_report(tmp_path)
    assert (tmp_path / "eval.json").read_text() == content


@pytest.mark.parametrize("damaged", [{}, {"sequences": 3}, None, "x"])
def test_an_earlier_task_that_cannot_be_written_again(tmp_path, damaged):
    report = write_report(tmp_path, results.MODEL, {"loss": results.loss()})
    assert check_report(tmp_path) == report
    content = json.dumps(report | {"tasks": {"loss": damaged}})
    (tmp_path / "eval.json").write_text(content)
    for run in (check_report, lambda at: write_report(at, results.MODEL, {"copy": {}})):
        with pytest.raises(ConfigError, match=r"eval\.json is not what an evaluation has written"):
            run(tmp_path)
    assert (tmp_path / "eval.json").read_text() == content


def test_a_newer_format_is_named(tmp_path):
    (tmp_path / "eval.json").write_text('{"format_version": 2, "tttscale_version": "99.0"}')
    with pytest.raises(ConfigError, match="newer tttscale"):
        write_report(tmp_path, results.MODEL, {"loss": results.loss()})


def test_a_plot_that_fails_takes_no_numbers_away(tmp_path, monkeypatch, caplog):
    def broken(result, out):
        raise RuntimeError("no fonts")

    monkeypatch.setitem(PLOTS, "loss", ("loss_by_position.png", broken))
    write_report(tmp_path, results.MODEL, {"loss": results.loss()})
    assert "plots are left out" in caplog.text
    assert json.loads((tmp_path / "eval.json").read_text())["tasks"]["loss"]["loss"] == 2.6
    assert "![" not in (tmp_path / "eval.md").read_text()
