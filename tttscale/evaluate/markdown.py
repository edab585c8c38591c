"""eval.md: tables and plain sentences out of the numbers of eval.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tttscale.evaluate.intervals import LEVEL, luck, wilson
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
        f"{_sequences(result)}."
    )


def _sequences(result: Result) -> str:
    return " of ".join(
        f"{count:,} {name}{'s' * (count != 1)}"
        for count, name in ((result["sequences"], "sequence"), (result["length"], "token"))
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
        before is not None and after is not None and after < before
        for layer in result["layers"]
        for before, after in zip(layer["before"], layer["after"], strict=True)
    )
    total = sum(len(layer["before"]) for layer in result["layers"])
    return (
        f"The inner step lowers the inner loss of its own mini-batch in {helped} of {total} cells (layers "
        f"times buckets of positions), over {_sequences(result)}."
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
    cells, chance = result["cells"], 1 / result["choices"]
    samples = sum(cell["samples"] for cell in cells)
    chosen = wilson(sum(_right(cell, "chosen", cell["samples"]) for cell in cells), samples)
    exact = sum(_right(cell, "exact", cell["samples"]) for cell in cells) / samples
    return (
        f"The right answer is the likeliest of {result['choices']} in {chosen.value:.1%} of all samples "
        f"({chosen.low:.1%} to {chosen.high:.1%}; chance {chance:.1%}); the likeliest token is right "
        f"throughout the answer in {exact:.1%}. {_verdict([(c, chance, c['samples']) for c in cells])}"
    )


def _verdict(cells: Sequence[tuple[Result, float, int]]) -> str:
    """Say in how many cells the model is better than chance: triples of cell, chance, trials."""
    level = (1 - LEVEL) / 2 / len(cells)  # many cells are tested at once
    above = sum(
        luck(_right(cell, "chosen", trials), trials, chance) < level
        for cell, chance, trials in cells
    )
    test = "by an exact binomial test that allows for the number of cells"
    if not above:
        return (
            f"No cell is above chance {test}: these samples do not show that the model can do this."
        )
    return f"{above} of {len(cells)} cells are above chance {test}."


def _right(cell: Result, name: str, trials: int) -> int:
    return round(cell[name]["value"] * trials)


def _heat_table(result: Result) -> Iterable[str]:
    yield f"| length | depth | {_SHARES}"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for cell in result["cells"]:
        yield f"| {binary(cell['length'])} | {cell['depth']:.0%} | {_shares(cell)}"


def _symbols_sentence(result: Result) -> str:
    cells = result["cells"]
    best = max(cells, key=lambda cell: cell["chosen"]["value"] - 1 / cell["choices"])
    tested = [(c, 1 / c["choices"], c["samples"] * c["answer_tokens"]) for c in cells]
    return (
        f"Best: {best['chosen']['value']:.1%} of answer tokens are the likeliest of {best['choices']} "
        f"choices at {binary(best['length'])} tokens ({best['kind']}; chance {1 / best['choices']:.1%}). "
        f"{_verdict(tested)}"
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
