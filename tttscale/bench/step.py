"""`tttscale bench step`: a whole optimizer step by context length and by sequence ranks, on a CPU."""

import socket
from pathlib import Path
from typing import Any

from tttscale.bench import report

_GIB, _MIB = 2**30, 2**20


def bench_step(
    out: Path, lengths: list[int], ranks: list[int], chunk: int, keep: str, steps: int
) -> str:
    """Measure every length on every number of ranks, one thread each; write OUT.md and OUT.json.

    Args:
        out: report path without suffix.
        lengths: tokens per sequence.
        ranks: numbers of sequence ranks, each a process.
        chunk: tokens per chunk.
        keep: parallel.keep_chunks, a number or "auto".
        steps: optimizer steps per measurement; the fastest counts.

    Returns:
        The table.
    """
    data = [_measure(tokens, r, chunk, keep, steps) for tokens in lengths for r in ranks]
    rows = [_row(result, data) for result in data]
    text = report.table(rows)
    note = (
        "The quickstart's model (TTT-Linear, 1.1 M parameters, 4 layers, 2 heads of 64, K = 16), one "
        f"sequence of random bytes, chunks of {chunk} tokens, keep_chunks {keep}, fp32, AdamW under "
        f"ZeRO 1, one thread per rank; fastest of {steps} step(s). *carries*: bytes of stored inner "
        "weights and convolution tails, (n - 1) chunks x layers. *growth explained*: growth of the "
        "resident peak over the first length on one rank, divided by the growth of the carries."
    )
    report.write(out, "One optimizer step", [("Result", text), ("What was measured", note)], data)
    return text


def _measure(tokens: int, ranks: int, chunk: int, keep: str, steps: int) -> dict[str, Any]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    workers = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
        env = {**common, **place, "OMP_NUM_THREADS": "1"}
        arguments = (str(tokens), str(chunk), keep, str(steps))
        workers.append(report.start_worker("tttscale.bench.step_worker", *arguments, env=env))
    results = report.collect(workers)
    return {**results[0], "ranks": ranks, "peak_bytes": max(r["peak_bytes"] for r in results)}


def _row(result: dict[str, Any], data: list[dict[str, Any]]) -> dict[str, str]:
    alone = [d for d in data if d["ranks"] == 1]
    same = [d for d in alone if d["tokens"] == result["tokens"]]
    row = {
        "tokens": f"{result['tokens']:,}",
        "ranks": str(result["ranks"]),
        "s/step": f"{result['step_seconds']:.2f}",
        "tokens/s": f"{result['tokens'] / result['step_seconds']:,.0f}",
        "speed-up": f"{same[0]['step_seconds'] / result['step_seconds']:.2f}x" if same else "",
        "bubble": f"{100 * result['bubble_fraction']:.1f}%",
        "loss": repr(result["loss"]),
        "peak GiB": f"{result['peak_bytes'] / _GIB:.3f}",
        "carries MiB": f"{result['carry_bytes'] / _MIB:.1f}",
        "growth explained": "",
    }
    if result["ranks"] == 1 and alone and result is not alone[0]:
        grown = result["peak_bytes"] - alone[0]["peak_bytes"]
        carried = result["carry_bytes"] - alone[0]["carry_bytes"]
        row["growth explained"] = f"{grown / carried:.3f}"
    return row
