"""A chunk of packed documents: scanned side by side, and one after the other.

python -m benchmarks.ops.documents [--tokens 8192] [--out benchmarks/documents_cpu]
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from tttscale.bench import report

_WORKER = "benchmarks.ops.documents_worker"


def bench_documents(out: Path, tokens: int) -> str:
    """Measure a layer over `tokens` tokens; write OUT.md and OUT.json; return the table."""
    device, heads = ("cuda", ("32",)) if torch.cuda.is_available() else ("cpu", ("2", "12"))
    rows = report.run_rows(_WORKER, device, str(tokens), *heads)
    text = documents_table(rows)
    sections = [("Result", text), ("What was measured", NOTE)]
    report.write(out, "Documents side by side", sections, rows)
    return text


NOTE = (
    "Forward and backward of one whole TTT layer (heads of 64, K = 16) over one chunk, with a state that "
    "comes in and a gradient that comes back; medians. Documents have log-normal lengths (sigma 1) and begin "
    "at mini-batches. *serial steps*: mini-batches of the chunk, and those that a GPU would still do one "
    "after the other if it ran all rows of a stack at once. On a CPU only as many documents are scanned at "
    "once as its cache has room for, and hardly any filling is taken (`LIMITS`)."
)


def documents_table(rows: list[dict[str, Any]]) -> str:
    """Compare both ways, and the same chunk without documents."""
    lines = []
    for row in rows:
        same = [r for r in rows if (r["inner"], r["heads"]) == (row["inner"], row["heads"])]
        lines.append(
            {
                "inner": row["inner"],
                "heads": row["heads"],
                "tokens": f"{row['tokens']:,}",
                "documents": row["documents"],
                "serial steps": f"{row['tokens'] // 16:,} -> {-(-row['chain_tokens'] // 16):,}",
                "one by one, ms": f"{row['one_by_one_ms']:.1f}",
                "side by side, ms": f"{row['together_ms']:.1f}",
                "faster": f"{row['one_by_one_ms'] / row['together_ms']:.2f}x",
                "against no documents": f"{row['together_ms'] / same[0]['together_ms']:.2f}x",
            }
        )
    return report.table(lines) if lines else "not run"


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/documents_cpu"))
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the chunk")
    asked = parser.parse_args(words)
    print(bench_documents(asked.out, asked.tokens))


if __name__ == "__main__":
    main()
