"""A step's sweeps with torch's fp32 products and with oneDNN's, in turns on one CPU thread.

python -m benchmarks.ops.products [--widths quickstart wide] [--rounds 3] [--out benchmarks/products_cpu]
"""

import argparse
from pathlib import Path
from typing import Any

from tttscale.bench import report

WIDTHS = ("quickstart", "wide")
_NOTE = (
    "Forward and backward sweep of one sequence, keep_chunks 1, fp32, one thread; CPU seconds of the fastest "
    "of {rounds} rounds, both ways in turns in one process. quickstart: its model, 8,192 tokens in chunks of "
    "2,048. wide: 2 layers of width 768, vocabulary 32,000, 4,096 tokens in chunks of 2,048. *head*: "
    "cross-entropy of one chunk by slices of so many tokens. *activations*: what one block saves for the "
    "backward, per token and feature."
)


def bench_products(out: Path, widths: list[str], rounds: int) -> str:
    """Measure the widths one after the other; write OUT.md and OUT.json; return the table."""
    data = [
        report.run_worker(
            "benchmarks.ops.products_worker", width, str(rounds), env={"OMP_NUM_THREADS": "1"}
        )
        for width in widths
    ]
    text = report.table([_row(result) for result in data])
    note = _NOTE.format(rounds=rounds)
    report.write(
        out, "fp32 products on a CPU", [("Result", text), ("What was measured", note)], data
    )
    return text


def _row(result: dict[str, Any]) -> dict[str, str]:
    from benchmarks.ops.products_worker import SHAPES

    step, head = result["step_seconds"], result["head_seconds"]
    width = SHAPES[result["width"]][2]["hidden_size"]
    saved = {k: v / width for k, v in result["saved_bytes_per_token"].items()}
    return {
        "model": result["width"],
        "torch, s": f"{step['torch']:.2f}",
        "oneDNN, s": f"{step['onednn']:.2f}",
        "gain": f"{step['torch'] / step['onednn']:.2f}x",
        **{f"head {name}, ms": f"{1000 * seconds:.1f}" for name, seconds in head.items()},
        "loss by torch": f"{result['loss']['torch']:.9f}",
        "by oneDNN": f"{result['loss']['onednn']:.9f}",
        "activations fp32, bf16": f"{saved['fp32']:.1f}, {saved['bf16']:.1f} bytes",
    }


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    from tttscale.kernels.ops import cpu_product

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/products_cpu"))
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    asked = parser.parse_args(words)
    if (missing := cpu_product.why_not()) is not None:
        parser.error(f"this compares with oneDNN's product, which {missing}")
    print(bench_products(asked.out, asked.widths, asked.rounds))


if __name__ == "__main__":
    main()
