"""The page in a real browser: what it draws, follows and says."""

import json
import threading

import pytest

from tests.browser import MISSING, PROGRAM, Browser
from tests.watch.runs import make_run, record
from tttscale.watch.numbers import WatchedRun
from tttscale.watch.page import page_html
from tttscale.watch.server import WatchServer

EVIL = "<img src=x onerror=hacked=1></script><script>hacked=1</script>"
CHARTS = ("loss", "time", "speed", "norm", "rate", "positions")


def written(folder):
    run = WatchedRun(folder)
    while not run.update():
        pass
    return page_html(run.snapshot())


def test_one_file_that_fetches_nothing(tmp_path):
    text = written(make_run(tmp_path / "one"))
    assert "default-src 'none'" in text
    assert "connect-src" not in text
    assert "{{" not in text
    for tag in ("<script src", '<link rel="stylesheet', "url(", "@import"):
        assert tag not in text
    live = page_html(WatchedRun(tmp_path / "one").snapshot(), 2.0)
    assert "connect-src 'self'" in live


@pytest.fixture(scope="module")
def browser():
    if PROGRAM is None:
        pytest.skip(MISSING)
    with Browser() as browser:
        yield browser


def opened(browser, address, **how):
    page = browser.open(address, **how)
    page.wait_for("document.documentElement?.dataset.ready")
    page.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    return page


def text(page, what):
    return page.value(f"[...document.querySelectorAll('{what}')].map(e => e.textContent)")


@pytest.mark.parametrize("how", [{}, {"dark": True}, {"width": 390, "height": 800, "touch": True}])
def test_what_it_draws(browser, tmp_path, how):
    (tmp_path / "p.html").write_text(written(make_run(tmp_path / "one")))
    page = opened(browser, f"file://{tmp_path}/p.html", **how)
    assert text(page, "#run") == ["one"]
    assert text(page, "#state") == ["done"]
    assert text(page, ".card strong")[0] == "20"
    assert text(page, ".card-name") == [
        "step", "loss", "held-out loss", "tokens per second", "waits", "last checkpoint",
    ]  # fmt: skip
    for name in CHARTS:
        assert page.value(f"document.querySelectorAll('#{name} path').length") > 0, name
    assert page.value("document.querySelectorAll('#time path').length") == 6
    assert page.value("document.querySelectorAll('#loss circle').length") == 4
    width = page.value("document.documentElement.scrollWidth")
    assert width <= how.get("width", 1280)
    numbers = page.value(
        "[...document.querySelectorAll('path')].map(p => p.getAttribute('d')).join()"
    )
    assert "NaN" not in numbers
    assert "undefined" not in numbers
    assert page.complaints() == []


def test_the_last_half_and_the_tooltip(browser, tmp_path):
    (tmp_path / "p.html").write_text(written(make_run(tmp_path / "one")))
    page = opened(browser, f"file://{tmp_path}/p.html")
    box = page.value(
        "(b => [b.left, b.top, b.width, b.height])"
        "(document.querySelector('#loss').getBoundingClientRect())"
    )
    page.mouse("Moved", box[0] + box[2] - 10, box[1] + box[3] / 2)
    assert text(page, "#tooltip .tip-title") == ["step 20"]
    assert text(page, "#tooltip dd") == ["2.15", "2.6"]
    page.value("[...document.querySelectorAll('#ranges button')][1].click()")
    assert page.value("watchedRun.charts.loss.what.x[0]") == 10
    assert text(page, '#ranges [aria-pressed="true"]') == ["last half"]
    page.value("document.querySelector('#theme').click()")
    assert page.value("document.documentElement.dataset.theme") == "light"
    assert page.complaints() == []


@pytest.mark.parametrize(
    "how", [{"steps": 1}, {"steps": 0, "positions": False}, {"evaluated": False}]
)
def test_runs_with_little_in_them(browser, tmp_path, how):
    (tmp_path / "p.html").write_text(written(make_run(tmp_path / "one", **how)))
    page = opened(browser, f"file://{tmp_path}/p.html")
    assert len(text(page, ".card")) == 6
    if not how.get("steps", 1):
        assert text(page, "#loss text") == ["no values yet"]
    assert page.value("document.querySelector('#positions').hidden") == (
        not how.get("positions", True)
    )
    assert page.complaints() == []


def test_names_are_text_and_never_markup(browser, tmp_path):
    folder = make_run(tmp_path / EVIL.replace("/", "\u2215"))
    lines = (folder / "attempts.jsonl").read_text().splitlines()
    end = json.loads(lines[1]) | {"code": 70, "cause": EVIL}
    (folder / "attempts.jsonl").write_text(lines[0] + "\n" + json.dumps(end) + "\n")
    (tmp_path / "p.html").write_text(written(folder))
    page = opened(browser, f"file://{tmp_path}/p.html")
    assert page.value("typeof hacked") == "undefined"
    assert page.value("document.querySelectorAll('img').length") == 0
    assert "<img" in text(page, "#run")[0]
    assert text(page, "#state") == ["failed"]
    assert page.complaints() == []


def test_a_live_page_follows_its_run(browser, tmp_path):
    folder = make_run(tmp_path / "one")
    with WatchServer(WatchedRun(folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            page = opened(browser, server.url)
            assert page.value("watchedRun.snapshot.series.step.length") == 20
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(record(21, loss=1.5))
            page.wait_for("watchedRun.snapshot.series.step.length === 21")
            assert text(page, "#cards strong")[0] == "21"
        finally:
            server.shutdown()
            thread.join()
    page.wait_for("document.querySelector('#state').textContent === 'connection lost'")
    asked = [line for line in page.complaints() if line.startswith("it asked for ")]
    assert {line.removeprefix("it asked for ") for line in asked} == {
        server.url, f"{server.url}data.json",
    }  # fmt: skip
