"""The report as markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from tttscale.profile.report import seconds_text, share_text, size_text

_MOST_ROWS = 64
_TIMES = ("upstream", "wire", "hidden", "exposed")
_PARTS = ("compute", "ramp", "starved", "exposed", "data", "rest")


def report_markdown(report: dict[str, Any], files: Sequence[str] = ()) -> str:
    """Return the text of report.md.

    Args:
        report: of `make_report`.
        files: names of what lies beside it.
    """
    lines = [f"# {_plain(report['run'])}: overlap report ({report['origin']})", ""]
    lines += [_plain(report["facts_line"]), "", _plain(report["verdict"]), ""]
    for caution in report["cautions"]:
        lines += [f"**{_plain(caution)}**", ""]
    lines += _table(("", "", ""), [(c["name"], c["value"], c["note"]) for c in report["headline"]])
    lines += ["## Steps", "", *_steps(report["steps"])]
    lines += ["## Where each rank's time went", "", *_ranks(report["ranks"])]
    if report["edges"]:
        lines += ["## Hand-overs by edge", ""]
        lines += [
            "Seconds of a step. Waiting for upstream: the sender was not done. The wire is either hidden "
            "under the receiver's compute or exposed.",
            "",
        ]
        lines += _edges(report["edges"])
        lines += ["## Hand-overs by layer", "", *_layers(report["layers"])]
    if report["comparison"]:
        lines += [f"## Predicted beside {report['origin']}", "", *_comparison(report)]
    lines += ["## How it was measured", "", *(f"- {_plain(note)}" for note in report["notes"])]
    if files:
        lines.append(f"- Beside this report: {', '.join(f'`{name}`' for name in files)}.")
    lines += [
        "",
        "## What to change",
        "",
        *(f"- {_plain(cause)}" for cause in report["causes"]),
        "",
    ]
    rows = [(a["change"], a["text"], a["key"], a["note"]) for a in report["advice"]]
    if rows:
        lines += _table(("change", "a step takes", "key", ""), rows)
    return "\n".join([*lines, _plain(report["advice_note"]), ""])


def _steps(steps: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            step["step"],
            seconds_text(step["seconds"]),
            *(share_text(step[f"{name}_seconds"] / step["seconds"]) for name in _PARTS),
            seconds_text(step["chain_seconds"]),
            seconds_text(step["possible_step_seconds"]),
        )
        for step in steps
        if step["seconds"]
    ]
    names = ("computing", "ramp", "starvation", "exposed", "tokens", "rest")
    return _table(("step", "seconds", *names, "serial chain", "possible"), rows)


def _ranks(ranks: list[dict[str, Any]]) -> list[str]:
    rows = []
    for rank in ranks[:_MOST_ROWS]:
        whole = sum(rank[f"{name}_seconds"] for name in _PARTS) or 1.0
        shares = (share_text(rank[f"{name}_seconds"] / whole) for name in _PARTS)
        memory = size_text(rank["peak_bytes"]) if rank["peak_bytes"] else ""
        rows.append((rank["rank"], rank["host"], *shares, memory))
    names = ("computing", "ramp", "starvation", "exposed", "tokens", "rest")
    return [*_table(("rank", "host", *names, "memory"), rows), *_more(ranks)]


def _edges(edges: list[dict[str, Any]]) -> list[str]:
    worst = sorted(edges, key=lambda edge: -(edge["exposed_seconds"] + edge["upstream_seconds"]))
    rows = [
        (
            f"{edge['source']} -> {edge['target']}",
            "gradients" if edge["direction"] == "backward" else "states",
            edge["messages"],
            *(seconds_text(edge[f"{name}_seconds"]) for name in _TIMES),
        )
        for edge in worst[:_MOST_ROWS]
    ]
    names = ("waited for upstream", "on the wire", "hidden", "exposed")
    return [*_table(("edge", "carries", "messages", *names), rows), *_more(edges)]


def _layers(layers: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            layer["layer"],
            "gradients" if layer["direction"] == "backward" else "states",
            *(seconds_text(layer[f"{name}_seconds"]) for name in _TIMES),
        )
        for layer in layers[: 2 * _MOST_ROWS]
    ]
    names = ("waited for upstream", "on the wire", "hidden", "exposed")
    return _table(("layer", "carries", *names), rows)


def _comparison(report: dict[str, Any]) -> list[str]:
    origin = report["origin"]
    shown = [
        (
            row["name"],
            row["measured_text"],
            row["predicted_text"],
            "" if row["ratio"] is None else f"{row['ratio']:.3f}",
        )
        for row in report["comparison"]
    ]
    return _table(("", origin, "predicted", f"predicted / {origin}"), shown)


def _more(rows: list[Any]) -> list[str]:
    if len(rows) <= _MOST_ROWS:
        return []
    return [f"{len(rows) - _MOST_ROWS} more are in report.json.", ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_plain(str(cell)) for cell in row)} |" for row in rows]
    return [*lines, ""]


def _plain(text: str) -> str:
    """Text that markdown shows as it is, on one line."""
    text = " ".join(text.split())
    for sign in "\\`*_[]|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;").replace(">", "&gt;")
