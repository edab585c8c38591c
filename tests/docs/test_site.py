"""The site builds without a warning, needs no network, and says what the code says."""

import importlib.util
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.docs.pages import ROOT
from tttscale.config.schema import Config, known_keys


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_nothing_is_fetched(site):
    """Pages open from disk: no script, style, font or picture of another host."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        fetched = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(https?://[^\"\s>]+)",
            page.read_text(),
        )
        assert [url for url in fetched if "canonical" not in url] == [], page


def test_search_works_from_disk(site):
    assert (site / "search/search_index.js").read_text().startswith("var __index = ")
    assert "iframe-worker.js" in (site / "index.html").read_text()


def test_pages_hold_what_they_are_made_of(site):
    configuration = (site / "configuration.html").read_text()
    for key in known_keys():
        if len(key) > 1 and key != ("data", "blend"):
            assert f'id="{".".join(key)}"' in configuration, key
    assert "ttt-mlp-1.3b" in configuration
    python = (site / "python.html").read_text()
    for name in (
        "TTTForCausalLM",
        "from_pretrained",
        "ttt_scan",
        "TTTConfig",
        "ConfigError",
        "Sweeps",
    ):
        assert name in python, name
    assert "wavefront.svg" in (site / "index.html").read_text()
    for report in (ROOT / "benchmarks").glob("*.md"):
        name = report.stem.replace("README", "index")
        assert (site / "reports" / f"{name}.html").is_file()


def test_reference_says_what_the_schema_says():
    reference = load(ROOT / "docs/hooks/configuration.py")
    text = reference.reference()
    for section, model, _ in reference.sections():
        assert f"### {section} " in text
        for name, field in model.model_fields.items():
            assert field.description, f"{section}.{name} has no meaning"
    row = next(line for line in text.splitlines() if "`parallel.chunk_length`" in line)
    assert "whole number ≥ 1 | `8192` |" in row
    assert " ".join(field_text("parallel", "chunk_length").split()) in row
    row = next(line for line in text.splitlines() if "`checkpoint.resume`" in line)
    assert "`auto` or `never`" in row


def field_text(section, name):
    return Config.model_fields[section].annotation.model_fields[name].description


def test_links_to_files_become_paths():
    repository = load(ROOT / "docs/hooks/repository.py")
    rewritten = repository.rewritten
    assert (
        rewritten("[q](../benchmarks/quickstart.md)", "docs/a.md", "a.md")
        == "[q](reports/quickstart.md)"
    )
    assert (
        rewritten("[d](tttscale/data/README.md#x)", "README.md", "index.md")
        == "[d](data_format.md#x)"
    )
    assert rewritten("[e](../examples)", "docs/a.md", "a.md") == "e (`examples`)"
    assert rewritten("[u](https://a.b/c)", "docs/a.md", "a.md") == "[u](https://a.b/c)"
    assert rewritten("[x](../nowhere.md)", "docs/a.md", "a.md") == "[x](../nowhere.md)"


def test_figure_is_drawn_from_the_schedule():
    """The committed figure is what the script draws; to draw it again: python docs/figures/wavefront.py."""
    wavefront = load(ROOT / "docs/figures/wavefront.py")
    assert (ROOT / "docs/figures/wavefront.svg").read_text() == wavefront.draw()


def test_figure_shows_what_is_true():
    """Tasks of a rank do not overlap, no layer begins before its carry, and every chunk has both sweeps."""
    wavefront = load(ROOT / "docs/figures/wavefront.py")
    cells = wavefront.simulate()
    for rank in range(wavefront.RANKS):
        own = [cell for cell in cells if cell.rank == rank]
        assert all(a.end <= b.begin for a, b in pairwise(own))
        assert {cell.chunk % wavefront.RANKS for cell in own} == {rank}
    ends = {(c.kind, c.chunk, c.layer): c.end for c in cells}
    for cell in cells:
        step = {"forward": -1, "backward": 1}.get(cell.kind)
        if step and 0 <= cell.chunk + step < wavefront.CHUNKS:
            assert cell.begin > ends[cell.kind, cell.chunk + step, cell.layer]
    both = wavefront.CHUNKS * wavefront.LAYERS
    kinds = [cell.kind for cell in cells]
    assert kinds.count("forward") == kinds.count("backward") == both
    assert kinds.count("recompute") == both - wavefront.RANKS * wavefront.KEPT * wavefront.LAYERS
