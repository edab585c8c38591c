"""What a generated token costs: beside the official cache in turns, and after short and long contexts.

python -m benchmarks.decode [--official ttt.py] [--run RUN --book FILE] [--rounds 7] [--out benchmarks/decode]

The official code (ttt.py of ttt-lm-pytorch) is not part of this project; it needs transformers 4.46. RUN is a
trained run, such as that of the quickstart, whose model reads FILE in one process and continues in others.
"""

import argparse
import importlib.util
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tttscale.bench import report
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder

PROMPT, TOKENS = 256, 32
CONTEXTS = (1 << 10, 1 << 16, 1 << 20)
_SHAPE: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mini_batch_size": 16,
}
_NOTE = (
    "fp32 on one thread of a shared machine; width 256, 2 layers, 4 heads of 64, K = 16; *base* is the "
    "Transformer backbone, *mamba* has share_qk, use_gate and pre_conv. CPU seconds of the process for "
    "{tokens} tokens, one by one, after a prompt of {prompt}; the two in turns in one process, the median of "
    "{rounds} rounds, and the median of the ratios within a round. *difference*: the largest of the logits "
    "after the last token. *after a context*: the least CPU time of a token in {rounds} rounds of {tokens}, "
    "and the bytes of the state after the context, which is all that is kept of it; each in a process of its "
    "own, whose *peak* is its largest resident memory from start to end, Python and torch included, and "
    "*over the start* how much of it came after the model was made and had read its first chunk."
)
PIECE = 1 << 16
"""Tokens that are drawn and read at a time, so that the context itself takes no room."""
Way = Callable[[], tuple[float, Tensor]]


def model_of(kind: str, backbone: str) -> TTTForCausalLM:
    """An untrained model of either learner and backbone."""
    names = ("share_qk", "use_gate", "pre_conv")
    flags = dict.fromkeys(names, backbone == "mamba")
    fields: dict[str, Any] = {**_SHAPE, **flags, "ttt_layer_type": kind, "ttt_base_lr": 1.0}
    return TTTForCausalLM(TTTConfig(**fields))


def tokens(length: int) -> Tensor:
    """Random ids [1, length], always the same."""
    return torch.randint(0, 257, (1, length), generator=torch.Generator().manual_seed(0))


def ours(model: TTTForCausalLM, ids: Tensor, prompt: int) -> tuple[DecodeState, Way]:
    """Read a prompt; return the state after it, and what decodes the tokens that follow, one by one."""
    first = Decoder(model)
    first.read(ids[:, :prompt])
    return first.state, from_state(model, first.state, ids[:, prompt:])


def from_state(model: TTTForCausalLM, state: DecodeState, following: Tensor) -> Way:
    """Return what decodes tokens [1, n] after a state, one by one."""

    def run() -> tuple[float, Tensor]:
        """CPU seconds, and logits of the last token."""
        decoder, began = Decoder(model, state), time.process_time()
        for token in following.split(1, dim=1):
            logits = decoder.read(token)
        return time.process_time() - began, logits[0]

    return run


def official(path: Path, model: TTTForCausalLM, ids: Tensor) -> Way:
    """The same by the official model and its cache, with the same weights."""
    spec = importlib.util.spec_from_file_location("official_ttt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fields = model.config.model_dump(exclude={"pattern", "options", "use_cache"})
    theirs = module.TTTForCausalLM(module.TTTConfig(**fields, use_cache=True)).eval()
    missing, unknown = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert not unknown

    @torch.no_grad()
    def run() -> tuple[float, Tensor]:
        """CPU seconds, and logits of the last token."""
        cache = module.TTTCache(theirs.model, 1)
        theirs(ids[:, :PROMPT], cache_params=cache, use_cache=True)
        began = time.process_time()
        for token in ids[:, PROMPT:].split(1, dim=1):
            logits = theirs(token, cache_params=cache, use_cache=True).logits
        return time.process_time() - began, logits[0, -1]

    return run


def beside_the_official(path: Path, rounds: int) -> list[dict[str, Any]]:
    """Rows of the first table."""
    rows = []
    for kind in ("linear", "mlp"):
        for backbone in ("base", "mamba"):
            model, ids = model_of(kind, backbone), tokens(PROMPT + TOKENS)
            ways = {"tttscale": ours(model, ids, PROMPT)[1], "official": official(path, model, ids)}
            found: dict[str, list[tuple[float, Tensor]]] = {way: [] for way in ways}
            for _ in range(rounds + 1):  # the first round warms up
                for way, run in ways.items():
                    found[way].append(run())
            seconds = {way: [s for s, _ in results[1:]] for way, results in found.items()}
            a, b = seconds.values()
            logits = [results[-1][1] for results in found.values()]
            rows.append(
                {
                    "learner": kind,
                    "backbone": backbone,
                    **{
                        f"{way}, CPU s": f"{statistics.median(s):.4f}" for way, s in seconds.items()
                    },
                    "ratio": f"{statistics.median(x / y for x, y in zip(a, b, strict=True)):.2f}",
                    "difference": f"{float((logits[0] - logits[1]).abs().max()):.1e}",
                }
            )
    return rows


def after_contexts(rounds: int) -> list[dict[str, Any]]:
    """Rows of the second table."""
    rows = []
    for kind in ("linear", "mlp"):
        for context in CONTEXTS:
            found = report.run_worker(
                "benchmarks.decode", "--worker", kind, str(context), str(rounds)
            )
            rows.append(
                {
                    "learner": kind,
                    "context": f"{context:,}",
                    "CPU ms a token": f"{found['milliseconds']:.2f}",
                    "state, bytes": f"{found['state_bytes']:,}",
                    "peak, MiB": f"{found['peak_kib'] / 1024:,.0f}",
                    "over the start, MiB": f"{(found['peak_kib'] - found['start_kib']) / 1024:,.1f}",
                }
            )
    return rows


def after_context(kind: str, context: int, rounds: int) -> dict[str, float]:
    """What a process of its own finds after one context: time of a token, bytes of the state, memory."""
    model = model_of(kind, "mamba")
    decoder, generator = Decoder(model), torch.Generator().manual_seed(0)
    Decoder(model).read(tokens(min(context, decoder.chunk_tokens)))
    start = _peak_kib()
    for begin in range(0, context, PIECE):
        size = 1, min(PIECE, context - begin)
        decoder.read(torch.randint(0, 257, size, generator=generator))
    run = from_state(model, decoder.state, tokens(TOKENS))
    least = min(run()[0] for _ in range(rounds)) / TOKENS
    return {
        "milliseconds": 1000 * least,
        "state_bytes": decoder.state.nbytes,
        "start_kib": start,
        "peak_kib": _peak_kib(),
    }


def _peak_kib() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def across_processes(run: Path, book: Path) -> str:
    """Read a book in one process, continue from its state in others; return what was typed and said.

    Raises:
        RuntimeError: a command failed, or the text is not that of one process.
    """
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for name, target in (("RUN", run), ("book.txt", book)):
            (Path(folder) / name).symlink_to(target.absolute())
        drawn = ("--tokens", "80", "--temperature", "0.6")
        text = _generate(folder, shown, "--file", "book.txt", *drawn)
        _generate(
            folder, shown, "--file", "book.txt", "--tokens", "0", "--save-state", "book.state"
        )
        again = _generate(folder, shown, "--load-state", "book.state", *drawn)
        _generate(folder, shown, "In the end", "--load-state", "book.state", *drawn)
    if again != text:
        raise RuntimeError(f"{again!r} is not {text!r}")
    return "```text\n" + "\n".join(shown) + "\n```"


def _generate(folder: str, shown: list[str], *words: str) -> str:
    """Run the command in a process of its own; note what was typed and said."""
    command = ["generate", "RUN", *words]
    done = subprocess.run(
        [sys.executable, "-m", "tttscale", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    said = done.stderr.strip().splitlines()
    lines = [line for line in said if not line.startswith(("model ", "reading: "))]
    shown += [f"$ {shlex.join(['tttscale', *command])}", *done.stdout.splitlines(), *lines, ""]
    return done.stdout


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--official", type=Path, help="ttt.py of ttt-lm-pytorch")
    parser.add_argument("--run", type=Path, help="a trained run, for the last section")
    parser.add_argument("--book", type=Path, help="the text that it reads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/decode"))
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "CONTEXT", "ROUNDS"))
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    if asked.worker:
        kind, context, rounds = asked.worker
        print(json.dumps(after_context(kind, int(context), int(rounds))))
        return
    data: dict[str, Any] = {"contexts": after_contexts(asked.rounds)}
    sections = [("After a context", report.table(data["contexts"]))]
    if asked.official is not None:
        data["official"] = beside_the_official(asked.official, asked.rounds)
        sections.insert(0, ("Beside the official cache", report.table(data["official"])))
    if asked.run is not None:
        data["processes"] = across_processes(asked.run, asked.book)
        sections.append(("From a state that another process has saved", data["processes"]))
    note = _NOTE.format(tokens=TOKENS, prompt=PROMPT, rounds=asked.rounds)
    report.write(asked.out, "A generated token", [*sections, ("What was measured", note)], data)


if __name__ == "__main__":
    main()
