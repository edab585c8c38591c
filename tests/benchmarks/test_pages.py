"""The pages that are made from raw data say what it says, and are short."""

from pathlib import Path

import pytest

from benchmarks import transports
from benchmarks.static import kernels, one_token
from tests.campaigns import emulated_kernels
from tests.hosts import report as hosts
from tttscale.bench import report

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGES = {
    "kernels_sm90": kernels.render,
    "kernels_sm80": kernels.render,
    "kernels_one_token": one_token.render,
    "kernels_emulated": emulated_kernels.render,
    "hosts": hosts.render,
    "hosts_links": hosts.render,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_raw_data_gives(name, tmp_path):
    out = tmp_path / name
    (tmp_path / f"{name}.json").write_text((BENCHMARKS / f"data/{name}.json").read_text())
    PAGES[name](out)
    assert out.with_suffix(".md").read_text() == (BENCHMARKS / f"{name}.md").read_text()


def test_the_page_of_transports_is_what_its_raw_data_gives():
    page = (BENCHMARKS / "transports.md").read_text()
    found = report.read(BENCHMARKS / "transports")[1]["found"]
    for _, text in transports.render(found):
        assert text in page


@pytest.mark.parametrize("page", sorted(BENCHMARKS.glob("*.md")), ids=lambda p: p.name)
def test_a_page_can_be_read(page):
    assert len(page.read_text().split()) < 3000


def test_raw_data_lies_apart_from_the_pages(tmp_path):
    assert not [p for p in BENCHMARKS.iterdir() if p.suffix in (".json", ".jsonl")]
    report.write(tmp_path / "benchmarks/some", "Title", [("Result", "1")], data=1)
    assert (tmp_path / "benchmarks/some.json").exists()  # a folder of that name, and nothing in it
    (tmp_path / "benchmarks/data").mkdir()
    report.write(tmp_path / "benchmarks/some.thing", "Title", [("Result", "1")], data=2)
    assert (tmp_path / "benchmarks/some.thing.md").exists()
    assert report.read(tmp_path / "benchmarks/some.thing")[1] == 2
    assert (tmp_path / "benchmarks/data/some.thing.json").exists()


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ((), "benchmarks/kernels_sm90_paper"),
        (("--all",), "benchmarks/kernels_sm90"),
        (("--capability", "80"), "benchmarks/kernels_sm80_paper"),
        (("--all", "--capability", "80"), "benchmarks/kernels_sm80"),
        (("--all", "--out", "mine"), "mine"),
    ],
    ids=" ".join,
)
def test_each_report_of_kernels_has_its_own_path(words, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    written = []

    def bench(path, *_):
        written.append(path)
        report.beside(path, ".md").write_text("page")

    monkeypatch.setattr(kernels, "bench_kernels", bench)
    kernels.main(list(words))
    assert written == [Path(out)]
