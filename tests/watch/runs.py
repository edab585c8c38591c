"""Folders of runs, as their files are."""

import json

SHARES = {"bubble_fraction": 0.3, "ramp_fraction": 0.1, "starved_fraction": 0.15}


def record(step, **more):
    """One step's, with a fifth of its time between two steps."""
    fields = {
        "step": step,
        "loss": 2 + 3 / step,
        "grad_norm": 1 / step,
        "lr": 1e-3,
        "tokens": 64 * step,
    }
    fields |= {"tokens_per_second": 16.0, "step_seconds": 4.0, "data_seconds": 0.4}
    fields |= SHARES | {"exposed_comm_seconds": 0.2, "between_seconds": 1.0, "mfu": None}
    return json.dumps(fields | more) + "\n"


def make_run(folder, steps=20, *, evaluated=True, positions=True, half_a_line=False, attempts=True):
    """A run that has ended after `steps`."""
    folder.mkdir(parents=True)
    lines = [
        record(step, **({"heldout_loss": 2.5 + 2 / step} if evaluated and step % 5 == 0 else {}))
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 99, "lo' * half_a_line)
    if positions:
        content = {"edges": [0, 16, 32, 64], "loss": [4.0, None, 3.0], "count": [16, 0, 32]}
        (folder / "positions.json").write_text(json.dumps(content))
    if attempts:
        start = {"event": "start", "attempt": 1, "time": 1.8e9, "step": 0, "restart": 0}
        start |= {
            "launcher": "single",
            "ranks": 2,
            "hosts": 1,
            "host": "h",
            "place": "p",
            "pid": 1,
            "ticks": 1,
        }
        end = {
            "event": "end",
            "attempt": 1,
            "time": 1.8e9 + 60,
            "code": 0,
            "step": steps,
            "cause": "",
        }
        (folder / "attempts.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in (start, end))
        )
    return folder
