"""A TTT model in transformers: is it the same model, and what does its `generate` cost beside ours.

bash tests/hf.sh --report

makes a folder of packages for each line of transformers and calls

python -m benchmarks.transformers --packages DIR --packages DIR [--rounds 9] [--out benchmarks/transformers]

Each folder goes in front of PYTHONPATH of a process of its own (`--measure`), which writes JSON to stdout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode import PROMPT, TOKENS, model_of, tokens
from tttscale.bench import report
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.tensors import open_tensors

GOLDEN = Path("tests/golden")
CASES = ("linear_base", "linear_mamba", "mlp_base", "mlp_mamba")
LENGTHS = (1, 15, 16, 17, 75, 80)
NEW = 40
PACKAGES = ("transformers", "huggingface_hub", "tokenizers", "torch")
_NOTE = (
    "The four models of `tests/golden` (257 ids, width 64, 2 layers, K = 16), fp32 on one thread unless "
    "said otherwise. *greedy*: `generate` beside what the official forward gives without a cache, {new} "
    "tokens after prompts of {lengths}. *logits*: `AutoModelForCausalLM` beside `tttscale.model` on 80 "
    "tokens, fp32, bf16 and fp16, bit for bit. *saved*: `save_pretrained` of transformers, in one file "
    "and in shards, read by tttscale: weights bit for bit. *left padding*: the largest difference of any "
    "logit of the six prompts in one batch and of each alone; and their greedy tokens. *beams*, "
    "*samples*: {new} tokens of four beams, or of four samples of each row, of the padded batch, with and "
    "without a cache: sequences equal, and the largest difference of their scores, or of the samples' "
    "logits."
)
_SPEED = (
    "The models of [decode](decode.md): width 256, 2 layers. CPU seconds of the process for `generate` of "
    "{tokens} tokens after {prompt}, greedy, in turns in one process: the median of {rounds} rounds, and "
    "the median of the ratios within a round. The prompt is read within it."
)


def measure(rounds: int) -> dict[str, Any]:
    """All figures on the transformers of this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = dict(_pairs(Path(folder)))
        return {
            "versions": {name: version(name) for name in PACKAGES},
            "same": [_same(case, *pair, Path(folder) / "out") for case, pair in pairs.items()],
            "speed": list(_speed(rounds)),
        }


def _pairs(folder: Path) -> Iterator[tuple[str, tuple[TTTForCausalLM, Any]]]:
    """Each golden model, and what the Auto class makes of its folder."""
    from tttscale.hf.library import transformers

    shapes = json.loads((GOLDEN / "manifest.json").read_text())["model"]
    for case in CASES:
        core = TTTForCausalLM(TTTConfig(**shapes[case]["config"]))
        with open_tensors(GOLDEN / "model" / case / "weights.safetensors") as file:
            weights = {name: file.read(name) for name in file.shapes}
        core.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
        core.save_pretrained(folder / case)
        yield case, (core, transformers.AutoModelForCausalLM.from_pretrained(folder / case))


def _same(case: str, core: TTTForCausalLM, model: Any, out: Path) -> dict[str, Any]:
    """A row of the first table."""
    with open_tensors(GOLDEN / "generate" / f"{case}.safetensors") as file:
        prompts = {n: file.read(f"prompt_{n}") for n in LENGTHS}
        wanted = {n: file.read(f"tokens_{n}").tolist() for n in LENGTHS}
    greedy = [_generate(model, prompts[n][None])[0].tolist() == wanted[n] for n in LENGTHS]
    ids, mask = _left_padded(list(prompts.values()))
    options = {"attention_mask": mask}
    rows = _generate(model, ids, **options).tolist()
    beams = _with_and_without(model, ids, **options, num_beams=4, num_return_sequences=4)
    samples = _with_and_without(
        model, ids, **options, do_sample=True, num_return_sequences=4, top_p=0.95
    )
    return {
        "model": case,
        "greedy": _count(greedy),
        "logits": _count(_equal_logits(core, model, ids[-1:])),
        "saved": _count(_saved(model, core, out / case)),
        "left padding": f"{_padding(model, prompts, ids, mask):g}",
        "its tokens": _count([row == wanted[n] for n, row in zip(LENGTHS, rows, strict=True)]),
        "beams": beams,
        "samples": samples,
    }


def _generate(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """New tokens, greedy if nothing else is said."""
    fixed = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(ids, **{"do_sample": False, **fixed, **options})
    return out[:, ids.shape[1] :]


def _left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    return ids, (torch.arange(width) >= width - lengths).long()


@torch.no_grad()
def _equal_logits(core: TTTForCausalLM, model: Any, ids: Tensor) -> list[bool]:
    """In three dtypes; both are back in fp32 afterwards, with the same weights."""
    weights = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found.append(torch.equal(core.to(dtype)(ids).logits, model.to(dtype)(ids).logits))
    core.float().load_state_dict(weights)
    model.float().load_state_dict(weights)
    return found


def _saved(model: Any, core: TTTForCausalLM, out: Path) -> Iterator[bool]:
    for name, size in (("whole", "1GB"), ("shards", "40KB")):
        model.save_pretrained(out / name, max_shard_size=size)
        again = TTTForCausalLM.from_pretrained(out / name).state_dict()
        yield all(torch.equal(again[key], tensor) for key, tensor in core.state_dict().items())


@torch.no_grad()
def _padding(model: Any, prompts: dict[int, Tensor], ids: Tensor, mask: Tensor) -> float:
    """The largest difference of a logit, with a cache and without."""
    worst = 0.0
    for use_cache in (True, False):
        logits = model(ids, attention_mask=mask, use_cache=use_cache).logits
        for row, prompt in zip(logits, prompts.values(), strict=True):
            alone = model(prompt[None], use_cache=use_cache).logits[0]
            worst = max(worst, float((row[-len(prompt) :] - alone).abs().max()))
    return worst


def _with_and_without(model: Any, ids: Tensor, **options: Any) -> str:
    """Generate with a cache and without, from one seed."""
    fixed = {"max_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None}
    found = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        found.append(
            model.generate(
                ids,
                **{"do_sample": False, **fixed, **options},
                use_cache=use_cache,
                return_dict_in_generate=True,
                output_scores=True,
                output_logits=True,
            )
        )
    ours, theirs = found
    equal = _count(
        [torch.equal(*pair) for pair in zip(ours.sequences, theirs.sequences, strict=True)]
    )
    if getattr(ours, "sequences_scores", None) is not None:
        a, b = ours.sequences_scores, theirs.sequences_scores
    else:
        a, b = torch.stack(ours.logits), torch.stack(theirs.logits)
    return f"{equal}, {float((a - b).abs().max()):.1e}"


def _count(found: Any) -> str:
    found = list(found)
    return f"{sum(found)} of {len(found)}"


def _speed(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of the second table."""
    from tttscale.hf import TTTConfig as Config
    from tttscale.hf import TTTForCausalLM as Wrapped

    for kind in ("linear", "mlp"):
        for backbone in ("base", "mamba"):
            core, ids = model_of(kind, backbone), tokens(PROMPT)
            model = Wrapped(Config(**core.config.model_dump()))
            model.load_state_dict(core.state_dict())
            ways = {
                "ours": lambda core=core, ids=ids: core.generate(ids, max_new_tokens=TOKENS).ids,
                "transformers": lambda model=model, ids=ids: _timed(model, ids),
            }
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            results = {}
            for _ in range(rounds + 1):  # the first round warms up
                for way, run in ways.items():
                    began = time.process_time()
                    results[way] = run()
                    seconds[way].append(time.process_time() - began)
            ours, theirs = (seconds[way][1:] for way in ways)
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            yield {
                "learner": kind,
                "backbone": backbone,
                "tttscale, CPU s": f"{statistics.median(ours):.4f}",
                "transformers, CPU s": f"{statistics.median(theirs):.4f}",
                "ratio": f"{ratio:.2f}",
                "tokens equal": "yes" if results["ours"] == results["transformers"] else "no",
            }


def _timed(model: Any, ids: Tensor) -> list[list[int]]:
    fixed = {"min_new_tokens": TOKENS, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, **fixed)
    return out[:, ids.shape[1] :].tolist()


def _run(packages: Path, rounds: int) -> dict[str, Any]:
    """Measure with these packages in front, in a process of its own."""
    paths = [str(packages), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.transformers", "--measure", "--rounds", str(rounds)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, in this process or in one for each folder of packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, action="append", default=[])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/transformers"))
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.rounds)))
        return
    found = [_run(packages, asked.rounds) for packages in asked.packages]
    if not found:
        parser.error("give --packages, once for each line of transformers")
    sections = []
    for each in found:
        versions = ", ".join(f"{name} {number}" for name, number in each["versions"].items())
        title = f"transformers {each['versions']['transformers']}"
        tables = f"{report.table(each['same'])}\n\n{report.table(each['speed'])}"
        sections.append((title, f"{versions}\n\n{tables}"))
    note = _NOTE.format(new=NEW, lengths=", ".join(map(str, LENGTHS)))
    speed = _SPEED.format(tokens=TOKENS, prompt=PROMPT, rounds=asked.rounds)
    sections.append(("What was measured", f"{note}\n\n{speed}"))
    command = "bash tests/hf.sh --report"
    report.write(asked.out, "A TTT model in transformers", sections, found, command)


if __name__ == "__main__":
    main()
