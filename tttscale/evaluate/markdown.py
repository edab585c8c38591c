"""eval.md: tables and plain sentences out of the numbers of eval.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tttscale.observe.figure import binary

Result = Mapping[str, Any]


def markdown(report: Result, plots: Mapping[str, str]) -> str:
    """Write all tasks.

    Args:
        report: the content of eval.json.
        plots: by task, the name of its plot.
    """
    model = report["model"]
    trained = model["trained_tokens"]
    lines = [
        f"# Evaluation of {model['path']}",
        "",
        f"{model['parameters']:,} parameters (fingerprint {model['fingerprint']}), "
        + (f"trained at {trained:,} tokens. " if trained else "")
        + f"tttscale {report['tttscale_version']}, torch {report['versions']['torch']}.",
    ]
    for task, result in report["tasks"].items():
        lines += ["", f"## {TITLES[task]}", "", sentence(task, result), ""]
        lines += _TABLES[task](result)
        lines += ["", _how(result), ""]
        if task in plots:
            lines += [f"![{TITLES[task]}]({plots[task]})", ""]
        lines += ["```bash", result["command"], "```"]
    return "\n".join(lines) + "\n"


def sentence(task: str, result: Result) -> str:
    """Say in words what a task has found."""
    return _SENTENCES[task](result)


TITLES = {
    "loss": "Loss by position",
    "inner": "Inner loss by position",
    "passkey": "Passkey",
    "needle": "Needle among needles",
    "recall": "Associative recall",
    "copy": "Copy",
    "state-tracking": "State tracking",
}


def _how(result: Result) -> str:
    return (
        f"{result['ranks']} rank{'s' * (result['ranks'] > 1)}, {result['layout']} chunks of "
        f"{result['chunk']:,} tokens, {result['precision']}, seed {result['seed']}."
    )


def _loss_sentence(result: Result) -> str:
    bits = result.get("bits_per_byte")
    return (
        f"Loss {_with_band(result['loss'], result['low'], result['high'])} nats per token (perplexity "
        f"{_number(result['perplexity'])}{f', {bits:.3f} bits per byte' if bits is not None else ''}) over "
        f"{result['sequences']} sequences of {result['length']:,} tokens."
    )


def _loss_table(result: Result) -> Iterable[str]:
    at = result["positions"]
    edges, trained = at["edges"], result["trained_tokens"]
    yield "| positions | loss (nats) | 95% interval | perplexity | tokens |"
    yield "|---|---:|---:|---:|---:|"
    for n, tokens in enumerate(at["tokens"]):
        beyond = " *" if trained and edges[n] >= trained else ""
        yield (
            f"| {edges[n]:,} to {edges[n + 1] - 1:,}{beyond} | {_number(at['loss'][n])} | "
            f"{_band(at['low'][n], at['high'][n])} | {_number(at['perplexity'][n])} | {tokens:,} |"
        )
    if trained and edges[-1] > trained:
        yield ""
        yield f"\\* beyond the {trained:,} tokens of a sequence in training."


def _inner_sentence(result: Result) -> str:
    helped = sum(
        (after or 0.0) < (before or 0.0)
        for layer in result["layers"]
        for before, after in zip(layer["before"], layer["after"], strict=True)
    )
    total = sum(len(layer["before"]) for layer in result["layers"])
    return (
        f"The inner step lowers the inner loss of its own mini-batch in {helped} of {total} cells (layers "
        f"times buckets of positions), over {result['sequences']} sequences of {result['length']:,} tokens."
    )


def _inner_table(result: Result) -> Iterable[str]:
    edges = result["edges"]
    yield "| layer | positions | at the initial weights | before the step | after it |"
    yield "|---:|---|---:|---:|---:|"
    for layer in result["layers"]:
        rows = zip(layer["initial"], layer["before"], layer["after"], strict=True)
        for n, row in enumerate(rows):
            values = " | ".join(map(_number, row))
            yield f"| {layer['layer']} | {edges[n]:,} to {edges[n + 1] - 1:,} | {values} |"


def _cells_sentence(result: Result) -> str:
    cells = result["cells"]
    chosen = sum(cell["chosen"]["value"] for cell in cells) / len(cells)
    exact = sum(cell["exact"]["value"] for cell in cells) / len(cells)
    return (
        f"The right answer is the likeliest of {result['choices']} in {chosen:.1%} of all samples "
        f"(chance {1 / result['choices']:.1%}); the likeliest token is right throughout the answer in "
        f"{exact:.1%}."
        f"{_verdict(cells, result['choices'])}"
    )


def _verdict(cells: Sequence[Result], choices: int) -> str:
    """Whether any cell is above chance."""
    above = sum(cell["chosen"]["low"] > 1 / choices for cell in cells)
    if not above:
        return " No cell is above chance by its interval: the model does not do this."
    return f" {above} of {len(cells)} cells are above chance by their intervals."


def _heat_table(result: Result) -> Iterable[str]:
    yield f"| length | depth | {_SHARES}"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for cell in result["cells"]:
        yield f"| {binary(cell['length'])} | {cell['depth']:.0%} | {_shares(cell)}"


def _symbols_sentence(result: Result) -> str:
    best = max(result["cells"], key=lambda cell: cell["chosen"]["value"] - 1 / cell["choices"])
    above = sum(cell["chosen"]["low"] > 1 / cell["choices"] for cell in result["cells"])
    return (
        f"Best: {best['chosen']['value']:.1%} of answers are the likeliest of {best['choices']} choices at "
        f"{binary(best['length'])} tokens ({best['kind']}; chance {1 / best['choices']:.1%}). "
        f"{above} of {len(result['cells'])} cells are above chance by their intervals."
    )


def _symbols_table(result: Result) -> Iterable[str]:
    yield f"| kind | length | chance | {_SHARES}"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for cell in result["cells"]:
        first = f"| {cell['kind']} | {binary(cell['length'])} | {1 / cell['choices']:.1%} | "
        yield first + _shares(cell)


_SHARES = "likeliest of the choices | 95% interval | exact | answer's loss (nats) | samples |"


def _shares(cell: Result) -> str:
    chosen, exact, loss = cell["chosen"], cell["exact"], cell["loss"]
    return (
        f"{chosen['value']:.1%} | {chosen['low']:.1%} to {chosen['high']:.1%} | {exact['value']:.1%} | "
        f"{_with_band(loss['value'], loss['low'], loss['high'])} | {cell['samples']} |"
    )


def _with_band(value: float | None, low: float | None, high: float | None) -> str:
    return _number(value) + (f" ({_band(low, high)})" if low is not None else "")


def _band(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


_SENTENCES = {
    "loss": _loss_sentence,
    "inner": _inner_sentence,
    "passkey": _cells_sentence,
    "needle": _cells_sentence,
    **dict.fromkeys(("recall", "copy", "state-tracking"), _symbols_sentence),
}
_TABLES = {
    "loss": _loss_table,
    "inner": _inner_table,
    "passkey": _heat_table,
    "needle": _heat_table,
    **dict.fromkeys(("recall", "copy", "state-tracking"), _symbols_table),
}
