"""The GPU round: what a card can do, whether everything is right on it, how long scans and whole steps take.

Run as `python -m benchmarks.gpu.check OUT [SECONDS]`. Stages, most valuable first,
within SECONDS (540): each has its share, one that fails says so and the rest follow, and what no longer fits
is named in the report instead of measured. OUT.md and OUT.json are written again after every stage; OUT.jsonl
has every row as soon as a worker has printed it. Without a GPU the same code runs on the CPU, interpreted and
small, and the report says so.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import tables
from benchmarks.gpu.machine import card, interpreter_trouble, left_out
from benchmarks.gpu.round import NO_GPU, Log, Round, Stage, conduct, from_command_line, side_by_side
from benchmarks.gpu.tune import launch_table
from benchmarks.ops.documents import NOTE as DOCUMENTS_NOTE
from benchmarks.ops.documents import documents_table
from benchmarks.ops.pointwise import note, pointwise_table
from tttscale.bench import report

Rows = list[dict[str, Any]]
_PAPER_DIM = 64
_DIMS = (128, 96, 32, 16)
"""Other head dims that have kernels, those that compile longest first."""
_KINDS = ("mlp", "linear")
_DTYPES = ("bf16", "fp32")
_SHORT = ("16", "75", "16", "1000")
"""K, tokens of the first check."""
_SCANS = ("1x8192", "4x8192", "1x32768")
_LONG_SCANS = ("4x32768", "1x131072")
_CHUNKS = {"ttt-linear-1.3b": "8192", "ttt-mlp-1.3b": "4096"}
_LAUNCHES = "5"
"""Launches tried of each serial kernel."""
_SERIAL = ("advance", "advance_backward")
FAILED = "FAILED"
"""First word on memory accesses that were found to be wrong, or a check of them that broke down."""
_SECONDS = 540.0


# ---- what is measured --------------------------------------------------------------------------


def measure_ceilings(work: Round) -> Rows:
    """Measure products in the model's shapes, copies, launches, clocks."""
    return work.worker("gpu.ceilings", work.device)


def check_errors(work: Round) -> Rows:
    """Check the paper's shape (on a CPU: the smallest) against fp64, and that neighbours change no bit."""
    dim = str(_PAPER_DIM if work.device == "cuda" else 16)
    shapes = _SHORT if work.device == "cuda" else _SHORT[:2]
    return work.together(
        [
            lambda words=(kind, dim, dtype, work.device, *shapes): work.worker("gpu.errors", *words)
            for kind in _KINDS
            for dtype in _DTYPES
        ]
    )


def check_ranks(work: Round) -> Rows:
    """Compare two sequence ranks, threads on the device, with one bit for bit."""
    return work.together(
        [lambda kind=kind: work.worker("gpu.ranks", kind, work.device) for kind in _KINDS]
    )


def compile_ahead(work: Round) -> Rows:
    """Compile side by side what later stages time, into the caches on disk."""
    if work.device == "cpu":
        return []
    calls = [
        lambda words=(preset, work.device, chunk): work.worker("gpu.step", *words)
        for preset, chunk in _CHUNKS.items()
    ]
    calls += [
        lambda words=(kind, kernel, work.device, "64", _LAUNCHES): work.worker(
            "gpu.tune_worker", *words
        )
        for kind in _KINDS
        for kernel in _SERIAL
    ]
    work.together(calls)  # times of 64 tokens say nothing
    return []


def check_other_errors(work: Round) -> Rows:
    """Check every other configuration, side by side: compiling takes longer than running."""
    if work.device == "cpu":
        return []
    cases = [
        (kind, dim, dtype) for dim in (_PAPER_DIM, *_DIMS) for kind in _KINDS for dtype in _DTYPES
    ]
    return work.together(
        [
            lambda words=(kind, str(dim), dtype, work.device): work.worker("gpu.errors", *words)
            for kind, dim, dtype in cases
        ]
    )


def check_memory_accesses(work: Round) -> str:
    """Run compute-sanitizer over a few tokens of each learner; say in words what it found."""
    tool = shutil.which("compute-sanitizer")
    if work.device == "cpu" or tool is None:
        return "not run: no GPU or no compute-sanitizer here"
    prefix, part = (tool, "--error-exitcode", "9"), work.until(1.0)
    words = (str(_PAPER_DIM), "bf16", "cuda", *_SHORT[:2])  # compiled by now
    part.together(
        [
            lambda kind=kind: part.worker("gpu.errors", kind, *words, prefix=prefix)
            for kind in ("linear", "mlp")
        ]
    )
    if part.failed:
        return f"{FAILED}, see below"
    # Too little time says nothing of the kernels.
    return "not finished, see below" if part.late else "no error found"


def time_scans(work: Round, whose: Sequence[tuple[str, str]], shapes: Sequence[str]) -> Rows:
    """Time scans of ours or of peers, each alone on the device; rows that failed are noted and left out."""
    rows: Rows = []
    for who, kind in whose:
        asked = shapes[:1] if who == "compiled" else shapes
        asked = ("1x64",) if work.device == "cpu" else asked
        rows += work.worker("gpu.scan_time", who, kind, work.device, *asked)
    work.missing += [
        f"{row['who']} {row['inner']} {row['error']}" for row in rows if "error" in row
    ]
    return [row for row in rows if "error" not in row]


def time_steps(work: Round, preset: str, lengths: Sequence[str]) -> Rows:
    """Time a 1.3B model through the chunked sweeps, shortest length first."""
    if work.device == "cpu":
        return work.worker("gpu.step", preset, work.device, "64", "64", "256")
    chunk = _CHUNKS[preset.removesuffix("+plain")]
    return work.worker("gpu.step", preset, work.device, chunk, *lengths)


def time_launches(work: Round) -> Rows:
    """Time the serial kernels under a few launches beside the table's."""
    cuda = work.device == "cuda"
    cases = [(kind, kernel) for kind in ("linear", "mlp") for kernel in _SERIAL]
    tokens = "16384" if cuda else "64"
    return [
        row
        for kind, kernel in (cases if cuda else cases[:1])
        for row in work.worker("gpu.tune_worker", kind, kernel, work.device, tokens, _LAUNCHES)
    ]


def time_pointwise(work: Round) -> Rows:
    """Time the operators between the matrix products: call by call, compiled, and a library's."""
    whose = ("plain", "compiled", "liger") if work.device == "cuda" else ("plain",)
    return [row for who in whose for row in work.worker("ops.pointwise_worker", who, work.device)]


def time_documents(work: Round) -> Rows:
    """Time a chunk of packed documents, side by side and one after the other."""
    words = ("8192", "32") if work.device == "cuda" else ("512", "1")
    return work.worker("ops.documents_worker", work.device, *words)


# ---- what was found ----------------------------------------------------------------------------


@dataclass
class Findings:
    """Results of the round so far."""

    device: str
    card: dict[str, str] = field(default_factory=dict)
    ceilings: Rows = field(default_factory=list)
    errors: Rows = field(default_factory=list)
    ranks: Rows = field(default_factory=list)
    scans: Rows = field(default_factory=list)
    steps: Rows = field(default_factory=list)
    launches: Rows = field(default_factory=list)
    pointwise: Rows = field(default_factory=list)
    documents: Rows = field(default_factory=list)
    sanitizer: str = "not reached"
    unchecked: int = 0
    """Workers of the first check that did not come to their end, whatever the reason."""
    missing: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> Rows:
        """Results whose error is too large or not a number, that change, or that made the host wait."""
        return [row for row in self.errors if not row["ok"]]

    @property
    def failed(self) -> bool:
        """A result is wrong, or was not checked."""
        broken = self.unchecked or self.wrong or self.sanitizer.startswith(FAILED)
        return bool(broken or not self.errors or any(not row["ok"] for row in self.ranks))

    def write(self, out: Path) -> None:
        """Write the report so far, so that no result is lost if the round is cut short."""
        twice = sum(row["same_bits"] for row in self.errors)
        checked = (
            f"{len(self.errors)} checked, {len(self.wrong)} wrong. A second run had the same bits in "
            f"{twice}; {sum(row['host_waits'] for row in self.errors)} made the host wait for the device."
        )
        pointwise_note = note("cpu" if self.device == NO_GPU else "cuda")
        facts = "; ".join(f"{name} {value}" for name, value in self.card.items())
        sections = [
            ("Device", "\n\n".join(filter(None, (self.device, facts)))),
            ("Ceilings", tables.ceiling_table(self.ceilings)),
            ("Against fp64", f"{checked}\n\n{tables.error_table(self.errors)}"),
            ("Two sequence ranks on one device", tables.rank_table(self.ranks)),
            ("Time of a scan", tables.time_table(self.scans) + tables.TIME_NOTE),
            ("Time of its kernels", tables.kernel_table(self.scans)),
            ("Time of an optimizer step", tables.step_table(self.steps)),
            ("Where it goes", tables.profile_table(self.steps)),
            ("Launches of the serial kernels", launch_table(self.launches)),
            (
                "Time of the pointwise operators",
                f"{pointwise_table(self.pointwise)}\n\n{pointwise_note}",
            ),
            ("Documents in a chunk", f"{documents_table(self.documents)}\n\n{DOCUMENTS_NOTE}"),
            ("compute-sanitizer", self.sanitizer),
            ("Not measured", "\n".join(f"- {line}" for line in self.missing) or "none"),
            ("Time of the round", tables.stage_table(self.stage_seconds)),
        ]
        report.write(out, "GPU check", sections, asdict(self), command="bash launch/gpu_check.sh")


# ---- the round ---------------------------------------------------------------------------------


def main(out: Path, seconds: float = _SECONDS) -> int:
    """Check, measure, write the report.

    Returns:
        Exit code: 1 if a result is wrong, two ranks differ from one, the paper's shape was not checked or
        compute-sanitizer failed. What there was no time to measure is named in the report, no more.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = Round(device, seconds, Log(report.beside(out, ".jsonl")))
    found = Findings(NO_GPU, missing=work.missing)
    if device == "cuda":
        found.device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
        found.card = card()
        work.missing += left_out("check")
    elif trouble := interpreter_trouble():
        work.missing.append(trouble)

    conduct(work, _stages(device, found), found, out)
    return int(found.failed)


def _stages(device: str, found: Findings) -> list[Stage]:
    """List the stages, most valuable first, sized for nine minutes."""

    def adds(rows: Rows, call: Callable[..., Rows], *words: Any) -> Callable[[Round], None]:
        return lambda work: rows.extend(call(work, *words))

    def check(work: Round) -> None:
        """Nothing is timed here, so all of it goes side by side, and later stages find compiled kernels."""
        first = work.until(1.0)

        def errors() -> None:
            found.errors += check_errors(first)
            found.unchecked = first.late + first.failed

        calls = [errors, lambda: found.ranks.extend(check_ranks(work)), lambda: compile_ahead(work)]
        side_by_side(calls)

    def sanitize(work: Round) -> None:
        found.sanitizer = check_memory_accesses(work)

    cuda = device == "cuda"
    ours = [("ours", "linear"), ("ours", "mlp")]
    peers = [("fla-chunk", "linear"), ("gated-delta", "linear")]
    rest = [("compiled", "linear"), ("fla-fused", "linear")]
    if left_out("check"):
        peers, rest = [], rest[:1]
    if not cuda:
        peers, rest = [("ours-torch", "linear")], []
    linear, mlp = "ttt-linear-1.3b", "ttt-mlp-1.3b"
    long, half = ("32768", "131072", "1048576"), ("32768", "131072")
    extra = [Stage("documents", 15, adds(found.documents, time_documents))]
    extra += [Stage("pointwise", 25, adds(found.pointwise, time_pointwise))]
    if cuda:
        extra += [
            Stage("compute-sanitizer", 35, sanitize),
            Stage("slow peers", 10, adds(found.scans, time_scans, rest, _SCANS[:1])),
            Stage("long scans", 10, adds(found.scans, time_scans, ours, _LONG_SCANS)),
            Stage(
                "steps call by call", 10, adds(found.steps, time_steps, f"{linear}+plain", long[:1])
            ),
            Stage("other configurations", 35, adds(found.errors, check_other_errors)),
        ]
    else:
        extra += [Stage("compute-sanitizer", 20, sanitize)]
    return [
        Stage("ceilings", 15, adds(found.ceilings, measure_ceilings)),
        Stage("checks, and compiling what is timed", 90, check),
        Stage("scans", 40, adds(found.scans, time_scans, ours, _SCANS)),
        Stage("steps of TTT-Linear", 110, adds(found.steps, time_steps, linear, long)),
        Stage("scans of peers", 45, adds(found.scans, time_scans, peers, _SCANS[:2])),
        Stage("steps of TTT-MLP", 60, adds(found.steps, time_steps, mlp, half)),
        Stage("launches", 40, adds(found.launches, time_launches)),
        *extra,
    ]


if __name__ == "__main__":
    from_command_line(main, _SECONDS)
