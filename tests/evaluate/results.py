"""Results of every task, as eval.json has them."""

import math
from itertools import pairwise

HOW = {"command": "tttscale eval runs/x", "seed": 0, "chunk": 64, "layout": "striped", "ranks": 2,
       "precision": "fp32", "trained_tokens": 2048}  # fmt: skip
MODEL = {"path": "runs/x", "weights": "runs/x/final", "fingerprint": "ab" * 16, "parameters": 1234,
         "trained_tokens": 2048}  # fmt: skip


def three(value, reach=0.1):
    return {"value": value, "low": max(0.0, value - reach), "high": min(1.0, value + reach)}


def loss(sequences=8, trained=2048, length=8192):
    from tttscale.scan.losses import position_edges

    edges = position_edges(length)
    values = [2.5 + 2 / math.sqrt(b) + (b > trained) * 0.3 for b in edges[1:]]
    band = [0.05 + 0.3 / math.sqrt(b) if sequences > 1 else None for b in edges[1:]]
    pairs = list(zip(values, band, strict=True))
    return HOW | {
        "text": [],
        "trained_tokens": trained,
        "length": length,
        "sequences": sequences,
        "tokens": length * sequences,
        "loss": 2.6,
        "low": None if sequences == 1 else 2.55,
        "high": None if sequences == 1 else 2.65,
        "perplexity": 13.5,
        "bits_per_token": 3.75,
        "bits_per_byte": 3.7,
        "positions": {
            "edges": edges,
            "loss": values,
            "low": [None if r is None else v - r for v, r in pairs],
            "high": [None if r is None else v + r for v, r in pairs],
            "perplexity": [math.exp(v) for v in values],
            "tokens": [(b - a) * sequences for a, b in pairwise(edges)],
        },
    }


def heat(task="passkey", skill=1.0, choices=10):
    cells = []
    for length in (1024, 4096, 16384):
        for n in range(5):
            value = max(1 / choices, skill * (1 - abs(n - 4) / 8) * min(1, 3000 / length))
            cells.append(
                {"length": length, "depth": n / 4, "samples": 20, "chosen": three(value),
                 "exact": three(value / 2), "loss": {"value": 1.5, "low": 1.4, "high": 1.6}}
            )  # fmt: skip
    return HOW | {"text": [], "title": task, "choices": choices, "cells": cells}


def symbols(kinds=("parity", "s5")):
    cells = [
        {"kind": kind, "length": length, "samples": 20, "answer_tokens": 5, "choices": 2 + 3 * n,
         "chosen": three(min(1, 300 / length)), "likeliest": three(0.2), "exact": three(0.1),
         "loss": {"value": 1.5, "low": 1.4, "high": 1.6}}
        for n, kind in enumerate(kinds)
        for length in (256, 1024, 4096)
    ]  # fmt: skip
    return HOW | {"text": [], "title": "state tracking", "cells": cells}


def inner(layers=4):
    edges = [0, 64, 91, 128, 181, 256, 2048, 4096]
    return HOW | {
        "text": [], "length": 4096, "sequences": 3, "measure": "mean squared error", "edges": edges,
        "layers": [
            {"layer": n,
             "initial": [1.0 + n] * 7,
             "before": [(1.0 + n) * (0.9 - 0.05 * i) for i in range(7)],
             "after": [(1.0 + n) * (0.8 - 0.06 * i) for i in range(7)]}
            for n in range(layers)
        ],
    }  # fmt: skip


def everything():
    return {
        "loss": loss(), "inner": inner(), "passkey": heat(), "needle": heat("needle", 0.0, 8),
        "recall": symbols(("recall",)), "copy": symbols(("copy",)), "state-tracking": symbols(),
    }  # fmt: skip
