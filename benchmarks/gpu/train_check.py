"""The real trainer on this machine's device: a store, a run, and the same run killed and resumed.

Run as `python -m benchmarks.gpu.train_check OUT [SECONDS]`. DeepSpeed ZeRO 1, bf16, train.compile. A
small store is built from this checkout's own text; one run goes through all its steps, one of the same
configuration is killed with SIGKILL after a checkpoint and started again by the same command. Losses, norms,
final weights and AdamW's moments of both have to have the same bits. Each stage has its share of SECONDS
(300); OUT.md and OUT.json are written again after every one, OUT.jsonl has each row at once, OUT.log what the
processes printed.
"""

import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.machine import card
from benchmarks.gpu.round import Ending, Log, Round, Stage, conduct, from_command_line, run_lines
from benchmarks.gpu.tables import stage_table
from tttscale.bench import report
from tttscale.files import write_text

STEPS, CHECKPOINT_EVERY, KILLED_AFTER = 20, 5, 12
"""Steps of a run, between its checkpoints, and the first that has to be done before it is killed."""
NO_GPU = "no GPU found: the CPU, and a tiny model; times mean nothing"
_ROOT = Path(__file__).parents[2]
_TEXT = ("tttscale", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
_GIB = 2**30
_SECONDS = 300.0
_MODELS = {  # width, feed-forward, layers, heads
    "cuda": (768, 2048, 6, 12),
    "cpu": (32, 64, 2, 2),
}
_TOKENS = {"cuda": (16384, 2048), "cpu": (512, 128)}
"""Tokens of a sequence, of a chunk."""
_ENV = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the same bits whatever ran before on a stream
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "disabled",
    "PYTHONUNBUFFERED": "1",
}


def trial(folder: Path, device: str, name: str, **changes: Any) -> dict[str, Any]:
    """The configuration of one run."""
    sequence, chunk = _TOKENS[device]
    width, hidden, layers, heads = _MODELS[device]
    paper = {"share_qk": True, "use_gate": True, "pre_conv": True, "ttt_layer_type": "linear"}
    return {
        "run": {"name": name, "dir": str(folder / "runs")},
        "model": {
            "vocab_size": 259,
            "hidden_size": width,
            "intermediate_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            **paper,
        },
        "data": {"store": str(folder / "store"), "sequence_length": sequence},
        "parallel": {"sequence": 1, "chunk_length": changes.get("chunk", chunk)},
        "zero": {"stage": 1},
        "train": {
            "steps": changes.get("steps", STEPS),
            "sequences_per_step": 2,
            "precision": "bf16",
            "compile": True,
            "lr": 1e-3,
            "warmup_steps": 4,
        },
        "evaluate": {"every": 10, "sequences": 1},
        "checkpoint": {"every": changes.get("every", CHECKPOINT_EVERY), "keep": 8},
        "logging": {"wandb": {"mode": "disabled"}},
    }


# ---- what a run has written ---------------------------------------------------------------------


def records_of(run: Path) -> list[dict[str, Any]]:
    """Read all whole lines of metrics.jsonl, in order."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [record for record in map(report.row_of, lines) if record is not None]


def checkpoints_of(run: Path) -> list[int]:
    """Steps of the checkpoints that are whole, in order."""
    found = (run / "checkpoints").glob("step-*/")
    return sorted(int(p.name.removeprefix("step-")) for p in found if p.name[5:].isdigit())


def digests_of(run: Path) -> dict[str, str]:
    """SHA-256 of the final weights and of all tensors of the last checkpoint."""
    tensors = [
        *run.glob("final/*.safetensors"),
        *run.glob(f"checkpoints/step-{STEPS}/*.safetensors"),
    ]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(tensors)
    }


def differences(one: Path, other: Path) -> list[str]:
    """Say what is not equal bit for bit between two runs that came to their end."""
    found = []
    a, b = ({r["step"]: r for r in records_of(run)} for run in (one, other))
    if list(a) != list(range(1, STEPS + 1)) or list(b) != list(a):
        found.append(f"steps {list(a)} and {list(b)}")
    for key in ("loss", "grad_norm", "heldout_loss", "lr", "tokens"):
        steps = [s for s in a if s in b and a[s].get(key) != b[s].get(key)]
        if steps:
            first = steps[0]
            found.append(f"{key} from step {first}: {a[first].get(key)} and {b[first].get(key)}")
    files, others = digests_of(one), digests_of(other)
    if not any(name.startswith("final") for name in files) or len(files) < 2:
        found.append(f"only {list(files)} were written")
    return found + [
        f"{name} has other bits"
        for name in sorted({*files, *others})
        if files.get(name) != others.get(name)
    ]


# ---- the check ---------------------------------------------------------------------------------


@dataclass
class Findings:
    """Results so far."""

    device: str
    card: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    killed_after_step: int | None = None
    resumed_from_step: int | None = None
    differences: list[str] | None = None
    """Between the run that was resumed and the one that was not; None: not reached."""
    half_chunks: str = "not reached"
    missing: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def verdict(self) -> str:
        """Say in words how the runs compare."""
        if self.differences is None:
            return "NOT REACHED, see below"
        where = f"killed after step {self.killed_after_step}, resumed from {self.resumed_from_step}"
        if self.differences:
            return f"DIFFERENT ({where}):\n\n" + "\n".join(f"- {d}" for d in self.differences)
        return f"the same bits in losses, norms, final weights and moments ({where})"

    def write(self, out: Path) -> None:
        """The report as it stands."""
        facts = "; ".join(f"{name} {value}" for name, value in self.card.items())
        env = ", ".join(f"{name}={value}" for name, value in _ENV.items())
        sections = [
            ("Device", "\n\n".join(filter(None, (self.device, facts, env)))),
            ("A run that was killed beside one that was not", self.verdict()),
            ("Half as long chunks", self.half_chunks),
            ("Runs", report.table(list(map(_line, self.runs))) if self.runs else "none"),
            ("Not done", "\n".join(f"- {line}" for line in self.missing) or "none"),
            ("Time of the stages", stage_table(self.stage_seconds)),
        ]
        command = "bash launch/gpu_train_check.sh"
        report.write(out, "The trainer on this device", sections, asdict(self), command=command)


def _line(row: dict[str, Any]) -> dict[str, str]:
    return {
        "run": row["run"],
        "ended": row["ended"],
        "steps": str(row["steps"]),
        "until the first step, s": f"{row['first_seconds']:.1f}",
        "s/step": f"{row['step_seconds']:.3f}",
        "tokens/s": f"{row['tokens_per_second']:,.0f}",
        "peak GiB": f"{row['peak_bytes'] / _GIB:.2f}",
        "loss": " to ".join(f"{loss:.4f}" for loss in row["losses"]),
    }


class Check:
    """The stages, in a folder that goes afterwards."""

    def __init__(self, device: str, folder: Path, found: Findings, output: Path) -> None:
        self.device, self.folder, self.found, self.output = device, folder, found, output
        write_text(output, "")

    def stages(self) -> list[Stage]:
        """List the stages; each needs those before it."""
        return [
            Stage("store", 25, self.build_store),
            Stage("a run", 105, self.whole),
            Stage("the same, killed", 60, self.killed),
            Stage("resumed", 60, self.resumed),
            Stage("half as long chunks", 50, self.half),
        ]

    def build_store(self, work: Round) -> None:
        """Build a store from the text of this checkout."""
        text = [str(path) for name in _TEXT if (path := _ROOT / name).exists()]
        endings = ("--suffix", ".py", "--suffix", ".md")
        words = ("data", "build", str(self.folder / "store"), *text, *endings, "--heldout", "0.1")
        self._ended(self._tttscale(work, *words), "tttscale data build")

    def whole(self, work: Round) -> None:
        """Run all steps in one go."""
        self._train(work, trial(self.folder, self.device, "whole"))

    def killed(self, work: Round) -> None:
        """Kill a run some steps after a checkpoint."""
        run = self.folder / "runs" / "killed"

        def far_enough() -> bool:
            done = records_of(run)
            return bool(done and done[-1]["step"] >= KILLED_AFTER and checkpoints_of(run))

        self._train(work, trial(self.folder, self.device, "killed"), far_enough)
        done, saved = records_of(run), checkpoints_of(run)
        if not done or not saved or done[-1]["step"] >= STEPS or (run / "final").exists():
            raise RuntimeError(f"it was not killed in between: {len(done)} steps, {saved} saved")
        self.found.killed_after_step, self.found.resumed_from_step = done[-1]["step"], saved[-1]

    def resumed(self, work: Round) -> None:
        """The same command again."""
        if self.found.killed_after_step is None:
            raise RuntimeError("no run was killed, so none can be resumed")
        self._train(work, trial(self.folder, self.device, "killed"))
        runs = self.folder / "runs"
        self.found.differences = differences(runs / "whole", runs / "killed")

    def half(self, work: Round) -> None:
        """The first step's loss does not depend on how a sequence is cut; here it is seen on the device."""
        chunk = _TOKENS[self.device][1] // 2
        config = trial(self.folder, self.device, "half", chunk=chunk, steps=1, every=0)
        self._train(work, config)
        runs = self.folder / "runs"
        first = [records_of(runs / name) for name in ("whole", "half")]
        if not all(first):
            raise RuntimeError("one of the two runs has no first step")
        losses = [records[0]["loss"] for records in first]
        same = "the same bits" if losses[0] == losses[1] else "DIFFERENT"
        self.found.half_chunks = f"{same} in the first step's loss: {losses[0]} and {losses[1]}"

    def _train(
        self, work: Round, config: dict[str, Any], until: Callable[[], bool] | None = None
    ) -> None:
        name = config["run"]["name"]
        run, path = self.folder / "runs" / name, self.folder / f"{name}.yaml"
        before = len(records_of(run))
        write_text(path, json.dumps(config))  # which YAML takes
        began = time.time()
        ended = self._tttscale(work, "train", str(path), until=until)
        records = records_of(run)[before if until is None else 0 :]
        if records:
            row = {"run": name, "ended": _words(ended), **_row(records, began, run)}
            self.found.runs.append(row)
            if work.log is not None:
                work.log.add("train", row)
        self._ended(ended, f"tttscale train {name}")

    def _tttscale(
        self, work: Round, *words: str, until: Callable[[], bool] | None = None
    ) -> Ending:
        command = [sys.executable, "-m", "tttscale", *words]
        said = [f"$ tttscale {' '.join(words)}\n"]
        ended = run_lines(command, work.env | _ENV, work.left_seconds, said.append, until)
        with self.output.open("a", encoding="utf-8") as file:
            file.write("".join([*said, ended.stderr, "\n"]))
        return ended

    def _ended(self, ended: Ending, what: str) -> None:
        if ended.late or (ended.code and not ended.asked):
            raise RuntimeError(f"{what} {_words(ended)}: {ended.tail}")


def _words(ended: Ending) -> str:
    if ended.asked:
        return "killed as planned"
    return "stopped at the deadline" if ended.late else f"with {ended.code}"


def _row(records: list[dict[str, Any]], began: float, run: Path) -> dict[str, Any]:
    """Speed and memory of the steps of one process."""
    seconds = [record["step_seconds"] for record in records]
    written = (run / "metrics.jsonl").stat().st_mtime
    return {
        "steps": len(records),
        "first_seconds": max(written - began - sum(seconds[1:]), 0.0),
        "step_seconds": statistics.median(seconds),
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in records),
        "peak_bytes": max(record["peak_memory_bytes"] for record in records),
        "losses": [records[0]["loss"], records[-1]["loss"]],
    }


def main(out: Path, seconds: float = _SECONDS) -> int:
    """Run all stages and write the report; exit code 1 if a run that was killed does not end as the other."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = Round(device, seconds, Log(report.beside(out, ".jsonl")))
    found = Findings(NO_GPU, missing=work.missing)
    if device == "cuda":
        found.device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
        found.card = card()
    work.env.pop("TRITON_INTERPRET", None)  # a CPU trains in plain torch
    work.env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), work.env.get("PYTHONPATH"))))
    folder = Path(tempfile.mkdtemp(prefix="gpu_train_check."))

    check = Check(device, folder, found, report.beside(out, ".log"))
    try:
        conduct(work, check.stages(), found, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(found.differences != [])


if __name__ == "__main__":
    from_command_line(main, _SECONDS)
