"""The page in a real browser: what it draws, and what mouse, touch and keyboard do with it."""

import json

import pytest

from tests.browser import MISSING, PROGRAM, Browser
from tests.profile.reports import report_of
from tests.traces import make_trace
from tttscale.profile.page import page_html

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)
EVIL = "<img src=x onerror=hacked=1></script><script>hacked=1</script>"
CONTROL, SHIFT = 2, 8
RANKS, CHUNKS, LAYERS = 3, 9, 2


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def trace():
    trace = make_trace(RANKS, CHUNKS, LAYERS, steps=2, hosts=2)
    trace.facts["run"] = EVIL
    trace.ranks[1].host = EVIL
    return trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trace):
    folder = tmp_path_factory.mktemp("page")
    report, predicted = report_of(trace, [f"a note {EVIL}"])
    report["cautions"] = ["mind the noise"]
    (folder / "page.html").write_text(page_html(report, trace, predicted))
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def page(browser, folder):
    page = opened(browser, folder)
    yield page
    assert page.complaints() == []


def opened(browser, folder, **how):
    page = browser.open(f"file://{folder}/page.html", **how)
    page.wait_for("document.documentElement?.dataset.ready")
    assert page.value("document.documentElement.dataset.ready") == "yes", page.complaints()
    return page


def settled(page):
    """What is shown after all pictures are drawn again."""
    page.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    found = page.value("[overlapReport.view.begin, overlapReport.view.end]")
    return found[0], found[1]


def box(page, what="#measured"):
    """Left, top, width and height of an element, in CSS pixels."""
    page.value(f"document.querySelector('{what}').scrollIntoView({{block: 'center'}})")
    return page.value(
        f"(() => {{ const b = document.querySelector('{what}').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )


def colours(page, canvas="#measured", row=None):
    """Different colours of a canvas, or of the middle of one rank's row."""
    where = "0, 0, c.width, c.height"
    if row is not None:
        where = f"120, Math.round(c.height * {(row + 0.6) / RANKS}), c.width - 120, 1"
    return page.value(
        f"(() => {{ const c = document.querySelector('{canvas}');"
        f" const d = new Uint32Array(c.getContext('2d').getImageData({where}).data.buffer);"
        " return [...new Set(d)].length; })()"
    )


def text(page, what):
    """Texts of elements."""
    return page.value(f"[...document.querySelectorAll('{what}')].map(e => e.textContent)")


# ---- what it says --------------------------------------------------------------------------------


def test_numbers_are_those_of_the_report(page, folder):
    report = json.loads((folder / "report.json").read_text())
    assert text(page, ".card strong") == [card["value"] for card in report["headline"]]
    assert text(page, ".card-name")[0] == "step"
    assert text(page, "#verdict") == [report["verdict"]]
    assert text(page, ".caution") == ["mind the noise"]
    assert len(text(page, "#bars .bar-row")) == RANKS
    assert len(text(page, "#edges tbody tr")) == len(report["edges"]) == 2 * RANKS
    assert len(text(page, "#layers tbody tr")) == 2 * LAYERS
    assert text(page, "#step option") == ["1", "2", "all"]
    assert text(page, ".change-name") == [change["change"] for change in report["advice"]]
    assert "predicted" in " ".join(text(page, "#comparison th"))
    sections = text(page, "main h2")
    assert sections[0] == "Wavefront"
    assert sections[-1] == "What to change"


def test_names_are_text_and_never_markup(page):
    assert page.value("typeof hacked") == "undefined"
    assert EVIL in text(page, "#run")[0]
    assert any(EVIL in label for label in text(page, ".bar-name"))
    assert any(EVIL in note for note in text(page, "#notes p"))
    assert page.value("document.querySelectorAll('img').length") == 0


def test_the_page_holds_the_trace(page, trace):
    small = page.value(
        "overlapReport.state.measured.ranks.map(r => [r.rank, r.spans.n, r.steps.length,"
        " r.spans.begin[7] * overlapReport.state.measured.tick,"
        " r.spans.chunk[20], r.spans.layer[20]])"
    )
    for row, rank in zip(small, trace.ranks, strict=True):
        assert row[:3] == [rank.rank, len(rank.spans), 2]
        assert row[3] == pytest.approx(rank.spans[7].begin, abs=2e-8)
        assert row[4:] == [rank.spans[20].chunk, rank.spans[20].layer]
    sends = sum(s.activity == "send" for rank in trace.ranks for s in rank.spans)
    assert page.value("overlapReport.state.measured.arrows.n") == sends
    memory = page.value(
        "(() => { const m = overlapReport.state.measured.ranks[2].memory;"
        " return [m.time.length, m.kib[3]]; })()"
    )
    assert memory == [len(trace.ranks[2].memory), trace.ranks[2].memory[3][1] // 1024]


def test_every_rank_is_drawn_in_the_colours_of_what_it_does(page, trace):
    for row in range(RANKS):
        assert colours(page, row=row) > 5
    assert colours(page, "#overview") > 3
    assert colours(page, "#memory") > 3
    assert colours(page, "#predicted-canvas") > 8
    # The pixel in the middle of a long activity has that activity's colour.
    span = next(s for s in trace.ranks[1].spans if s.activity == "finish" and s.chunk == 1)
    page.value(f"overlapReport.view.show({span.begin - 1e-4}, {span.end + 1e-4})")
    settled(page)
    found = page.value(
        "(() => { const p = overlapReport.state.pictures[1], c = p.canvas;"
        f" const x = p.x({span.begin + 0.8 * (span.end - span.begin)}),"
        " y = p.top(1) + p.rowHeight * 0.85, s = c.width / c.clientWidth;"
        " return [...c.getContext('2d').getImageData(x * s, y * s - 5, 1, 1).data]; })()"
    )
    assert found[:3] == [0xBC, 0xD7, 0xF7]  # finish, in light mode


# ---- mouse, keyboard, touch ----------------------------------------------------------------------


def test_zoom_and_pan_by_mouse(page):
    left, top, width, _ = box(page)
    whole = settled(page)
    x, y = left + 0.6 * width, top + 20
    at = page.value(f"overlapReport.state.pictures[1].secondsAt({x - left})")
    page.mouse("Wheel", x, y, deltaX=0, deltaY=-120, modifiers=CONTROL)
    zoomed = settled(page)
    assert zoomed[1] - zoomed[0] < 0.6 * (whole[1] - whole[0])
    under = page.value(f"overlapReport.state.pictures[1].secondsAt({x - left})")
    assert under == pytest.approx(
        at, abs=(zoomed[1] - zoomed[0]) / width
    )  # the mouse's whole pixel
    page.mouse("Wheel", x, y, deltaX=0, deltaY=120)  # without Ctrl the page scrolls
    assert settled(page) == zoomed
    assert "shown" in page.value("document.getElementById('hint').className")
    left, top, width, _ = box(page)
    page.drag((left + 600, top + 20), (left + 400, top + 20))
    panned = settled(page)
    assert panned[0] > zoomed[0]
    assert panned[1] - panned[0] == pytest.approx(zoomed[1] - zoomed[0])
    page.drag((left + 400, top + 20), (left + 600, top + 20), modifiers=SHIFT)
    ranged = settled(page)
    assert ranged[1] - ranged[0] < 0.4 * (panned[1] - panned[0])
    page.value("document.getElementById('fit').click()")
    assert settled(page) == whole
    page.value("document.getElementById('zoom-in').click()")
    assert settled(page)[1] - settled(page)[0] == pytest.approx((whole[1] - whole[0]) / 2)
    page.drag(
        (left + 300, box(page, "#overview")[1] + 10), (left + 500, box(page, "#overview")[1] + 10)
    )
    assert settled(page)[0] >= whole[0]


def test_zoom_pan_and_walk_by_keyboard(page):
    whole = settled(page)
    page.value("document.getElementById('measured').focus()")
    page.key("+")
    zoomed = settled(page)
    assert zoomed[1] - zoomed[0] == pytest.approx((whole[1] - whole[0]) / 2)
    page.key("ArrowRight")
    assert settled(page)[0] > zoomed[0]
    page.key("ArrowDown")
    page.key("ArrowDown")
    assert page.value("overlapReport.state.pictures[1].hovered.row") == 1
    first = text(page, "#spoken")[0]
    page.key(".")
    assert "rank 1" in first
    assert text(page, "#spoken")[0] != first
    page.key("0")
    assert settled(page) == whole


def test_touch_pinches(browser, folder):
    page = opened(browser, folder, width=390, height=844, touch=True, scale=2)
    left, top, width, _ = box(page)
    whole = settled(page)

    def touch(kind, *xs):
        points = [{"x": left + x * width, "y": top + 30, "id": i} for i, x in enumerate(xs)]
        page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    touch("Start", 0.5, 0.6)
    for spread in (0.02, 0.08, 0.15):
        touch("Move", 0.5 - spread, 0.6 + spread)
    touch("End")
    zoomed = settled(page)
    assert zoomed[1] - zoomed[0] < 0.5 * (whole[1] - whole[0])
    assert page.value("document.documentElement.scrollWidth <= innerWidth"), "it is too wide"
    assert page.complaints() == []


def test_pointing_says_what_lies_there(page, trace):
    rank = trace.ranks[2]
    waits = [s for s in rank.spans if s.activity == "wait" and s.end < rank.steps[0].end]
    span = max(waits, key=lambda s: s.end - s.begin)
    page.value(f"overlapReport.view.show({span.begin - 2e-4}, {span.end + 2e-4})")
    settled(page)
    left, top, *_ = box(page)
    settled(page)  # scrolling hides what was said
    x, y = page.value(
        "(() => { const p = overlapReport.state.pictures[1];"
        f" return [p.x({(span.begin + span.end) / 2}), p.top(2) + p.rowHeight / 2]; }})()"
    )
    page.mouse("Moved", left + x, top + y)
    settled(page)
    tip = text(page, "#tooltip")[0]
    assert not page.value("document.getElementById('tooltip').hidden")
    assert f"wait {span.part}" in tip
    assert f"chunk{span.chunk}" in tip
    assert f"layer{span.layer}" in tip
    assert "from send to receive" in tip
    assert page.value("overlapReport.state.pictures[1].shown.arrows") >= 1
    page.mouse("Moved", 5, 5)
    assert page.value("document.getElementById('tooltip').hidden")


def test_choices(page):
    whole = settled(page)
    plain = colours(page)
    page.value("document.querySelector('[data-mode=run]').click()")
    settled(page)
    assert text(page, ".key") == ["forward", "recompute", "backward"]
    page.value("document.querySelector('[data-mode=layer]').click()")
    settled(page)
    assert page.value("document.querySelector('[data-mode=layer]').ariaPressed") == "true"
    page.value("document.querySelector('[data-mode=activity]').click()")
    page.value(
        "[...document.querySelectorAll('.key')].find(k => k.textContent === 'advance').click()"
    )
    settled(page)
    assert page.value("[...overlapReport.options.picked]") == ["advance"]
    assert len(text(page, ".key.pale")) == len(text(page, ".key")) - 1
    page.value(
        "[...document.querySelectorAll('.key')].find(k => k.textContent === 'advance').click()"
    )
    settled(page)
    assert colours(page) == plain
    page.value("document.getElementById('arrows').click()")
    settled(page)
    assert page.value("overlapReport.state.pictures[1].shown.arrows") > 50
    choose = (
        "(() => {{ const s = document.getElementById('step'); s.value = '{}';"
        " s.dispatchEvent(new Event('change')); }})()"
    )
    page.value(choose.format(2))
    assert settled(page)[0] == pytest.approx(whole[1], rel=0.05)
    page.value(choose.format(""))
    assert settled(page)[1] - settled(page)[0] > 1.9 * (whole[1] - whole[0])
    page.value("document.getElementById('predicted').click()")
    assert page.value("document.getElementById('predicted-box').hidden")
    rows = text(page, "#edges tbody tr")
    page.value("document.querySelectorAll('#edges th button')[0].click()")
    assert text(page, "#edges tbody tr") != rows


def test_edges_by_layers(page, folder):
    cells = json.loads((folder / "report.json").read_text())["cells"]
    assert len(cells["layer"]) == 2 * RANKS * LAYERS
    assert text(page, "#heat-times button")[0] == "waited for upstream"
    before = colours(page, "#heat")
    page.value("document.querySelector('[data-choice=upstream_seconds]').click()")
    page.value("document.querySelector('[data-choice=backward]').click()")
    assert colours(page, "#heat") > 4 < before
    most = max(
        seconds
        for seconds, direction in zip(cells["upstream_seconds"], cells["direction"], strict=True)
        if direction == "backward"
    )
    assert page.value("overlapReport.state.heat.highest") == most
    left, top, *_ = box(page, "#heat")
    settled(page)
    page.mouse("Moved", left + 130, top + 5)
    tip = text(page, "#tooltip")[0]
    assert "gradients" in tip
    assert "layer0" in tip


def test_dark_mode_and_back(browser, folder):
    page = opened(browser, folder, dark=True)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.value(background)
    assert colours(page) > 20
    page.value("document.getElementById('theme').click()")
    assert text(page, "#theme") == ["theme: light"]
    assert page.value(background) != dark
    page.value("document.getElementById('theme').click()")
    assert page.value(background) == dark
    assert page.complaints() == []


# ---- sizes ---------------------------------------------------------------------------------------


def test_without_predictions_and_without_steps(browser, tmp_path):
    trace = make_trace(1, 3, 1)
    report, _ = report_of(trace)
    report |= {"comparison": [], "edges": [], "layers": [], "cells": {}}
    (tmp_path / "page.html").write_text(page_html(report, trace))
    page = opened(browser, tmp_path)
    assert page.value("document.getElementById('edges-section').hidden")
    assert page.value("document.getElementById('predicted-box').hidden")
    assert page.complaints() == []


def test_a_large_job_fits(browser, tmp_path):
    trace = make_trace(64, 256, 24, hosts=8)
    report, predicted = report_of(trace)
    whole = page_html(report, trace, predicted)
    assert len(whole) < 5e6
    assert "joined with their neighbours" not in whole
    (tmp_path / "page.html").write_text(whole)
    page = opened(browser, tmp_path)
    assert len(text(page, "#bars .bar-row")) == 64
    assert colours(page) > 100
    milliseconds = page.value(
        "(() => { const began = performance.now(); overlapReport.state.pictures[1].draw();"
        " return performance.now() - began; })()"
    )
    assert milliseconds < 2000
    assert page.complaints() == []
