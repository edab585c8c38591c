import gzip
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tttscale.cli import app
from tttscale.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/ttt-linear-1.3b-1Mi.yaml")
SMALL = ("model.num_hidden_layers=2", "data.sequence_length=128Ki", "parallel.chunk_length=16Ki")


def rehearse(*words):
    return CliRunner().invoke(app, ["rehearse", CONFIG, *SMALL, *words])


def test_what_it_prints():
    done = rehearse("--ranks", "4", "--gpu", "h200")
    assert done.exit_code == 0, done.output
    text = done.output
    assert "4 ranks, 1 x 131,072 tokens in 8 striped chunks of 16,384; kept chunks: 1" in text
    assert "costs: assumed for h200" in text
    assert "all times are virtual" in text
    assert "rehearsed / simulated = 1.0000" in text
    shares = re.search(r"busy (.*) %, ramp (.*) %, starved (.*) %, exposed (.*) %", text)
    assert sum(map(float, shares.groups())) == pytest.approx(100, abs=0.03)


def test_ranks_and_kept_chunks_come_from_the_configuration():
    done = rehearse("parallel.keep_chunks=0", "parallel.layout=contiguous", "--sequences", "2")
    assert "8 ranks, 2 x 131,072 tokens in 8 contiguous chunks" in done.output
    assert "kept chunks: 0\n" in done.output


def test_a_trace_for_perfetto(tmp_path):
    out = tmp_path / "trace.json.gz"
    done = rehearse("--ranks", "3", "--out", str(out))
    assert done.exit_code == 0, done.output
    events = json.loads(gzip.decompress(out.read_bytes()))["traceEvents"]
    names = {e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    assert len([name for name in names if "rank" in name]) >= 3
    assert {"advance", "wait"} <= {e["name"].split()[0] for e in events if e["ph"] == "X"}


def test_what_would_take_hours_is_refused():
    done = rehearse("data.sequence_length=64Mi", "parallel.chunk_length=16")
    assert isinstance(done.exception, ConfigError)
    assert "Set parallel.chunk_length higher" in str(done.exception)
