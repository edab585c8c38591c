"""A tiny training run, and what one process makes of it."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tttscale.observe import read_metrics

STEPS = 2
CONFIG: dict[str, Any] = {
    "run": {"name": "unnamed", "dir": "runs"},
    "model": {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mini_batch_size": 8,
        "share_qk": True,
        "use_gate": True,
        "pre_conv": True,
        "initializer_range": 0.1,
    },
    "data": {"store": "store", "sequence_length": 512},
    "parallel": {"sequence": 4, "chunk_length": 64, "layout": "striped"},
    "zero": {"stage": 1},
    "train": {"steps": STEPS, "sequences_per_step": 1, "precision": "fp32", "lr": 1e-2},
    "evaluate": {"sequences": 0},
    "logging": {"every": 1, "wandb": {"mode": "disabled"}},
}


def write_sources(folder: Path) -> Path:
    """Write texts to build a store from."""
    folder.mkdir()
    for number in range(8):
        words = (f"{number}: {n * n} is the square of {n}." for n in range(60 + number))
        (folder / f"{number}.txt").write_text("\n".join(words))
    return folder


def prepare(folder: Path, checkout: Path) -> None:
    """Make in `folder` texts, a store and tiny.yaml, and run it as `one`: all by one process."""
    write_sources(folder / "texts")
    here(checkout, folder, "data", "build", "store", "texts", "--workers", "1")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    here(checkout, folder, "train", "tiny.yaml", "run.name=one", "parallel.sequence=1")


def here(checkout: Path, folder: Path, *words: str) -> None:
    """Run `tttscale words` in one process of this machine, outside the lab."""
    python = str(checkout / ".venv/bin/python")
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [python, "-m", "tttscale", *words],
        cwd=folder,
        env={**keep, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def losses(folder: Path, name: str) -> list[float]:
    """The loss of each step of a run, to the last bit."""
    return [row["loss"] for row in read_metrics(folder / "runs" / name / "metrics.jsonl")]


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    return _files(one) == _files(other)


def _files(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}
