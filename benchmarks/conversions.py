"""Models in and out: golden weights and logits of every format, official round trips, memory.

python -m benchmarks.conversions [--official ttt.py] [--transformers FOLDER ...] [--out PATH]

The official code (ttt.py of ttt-lm-pytorch) is not part of this project. Each FOLDER holds a transformers for
it (pip install --target FOLDER); without one, that of this Python is used.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tttscale.bench import report
from tttscale.convert.export_model import Wishes as ExportWishes
from tttscale.convert.export_model import export_model
from tttscale.convert.import_model import Wishes, import_model
from tttscale.convert.settle import Given
from tttscale.convert.source import dtype_name
from tttscale.model import TTTForCausalLM
from tttscale.model.pretrained import weights_of
from tttscale.tensors import open_tensors

GOLDEN = Path("tests/golden")
MODELS = {"linear_base": 1.0, "linear_mamba": 1.0, "mlp_base": 0.1, "mlp_mamba": 0.1}
"""Golden models and their inner learning rates."""
LAYERS = (4, 16, 32)
_VOCAB, _WIDTH, _INNER, _HEADS = 8000, 512, 1376, 8
_SHARD_BYTES = 100_000
_WORKER = "--worker"
_NOTE = (
    "Golden models have 2 layers, width 64, 4 heads of 16, K = 16 and 257 tokens; their files were "
    "written by each format's own code. *weights*: against those of `tests/golden/model`, bit for bit; "
    "bf16 ones against their rounding. *logits*: largest difference from the logits that the JAX code "
    "computed in fp32 from the fp32 weights, for 64 tokens; the largest logit is 3.2 to 3.5. Official "
    "round trips: a folder of `tttscale export` loaded by the official `from_pretrained` (nothing "
    "missing, nothing unexpected), its logits beside ours; and a folder of the official `save_pretrained`"
    " imported again. *memory*: the largest resident memory of a process that imports a synthetic train "
    "state in bf16 (weights and both moments; width 512, 8,000 tokens), beside that of one that imports a"
    " golden model."
)


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a file."""
    with open_tensors(path) as file:
        return {name: file.read(name).clone() for name in file.shapes}


def convert(source: Path, out: Path, base_lr: float | None, **wishes: Any) -> None:
    """Import without a word."""
    asked = Wishes(given=Given(ttt_base_lr=base_lr), **wishes)
    import_model(source, out, asked, lambda line: None, lambda done, total: None)


def export(source: Path, out: Path, wishes: ExportWishes) -> None:
    """Export without a word and without a tokenizer."""
    asked = replace(wishes, tokenizer="none")
    export_model(source, out, asked, lambda line: None, lambda done, total: None)


@torch.no_grad()
def logits_of(folder: Path, ids: Tensor) -> Tensor:
    """Our logits of a model's folder."""
    return TTTForCausalLM.from_pretrained(folder)(ids).logits


def largest(one: Tensor, other: Tensor) -> float:
    """Largest difference."""
    return float((one - other).abs().max())


def sources() -> Iterator[tuple[str, str, Path]]:
    """Format, model and file of every golden source."""
    for name in MODELS:
        yield "JAX parameters, fp32", name, GOLDEN / f"jax/{name}.streaming_params"
    yield "JAX parameters, bf16", "linear_mamba", GOLDEN / "jax/linear_mamba.streaming_params_bf16"
    yield "JAX train state, bf16", "linear_mamba", GOLDEN / "jax/linear_mamba.streaming_train_state"
    for name in ("linear_mamba", "mlp_mamba"):
        yield "fused, fp32", name, GOLDEN / f"kernels/{name}.kernels_layout.safetensors"


def imports(work: Path) -> list[dict[str, str]]:
    """Rows of the golden imports."""
    rows = []
    for number, (kind, name, path) in enumerate(sources()):
        out = work / f"import-{number}"
        convert(path, out, MODELS[name])
        found = load(out / "model.safetensors")
        wanted = load(GOLDEN / f"model/{name}/weights.safetensors")
        dtype = next(iter(found.values())).dtype
        equal = found.keys() == wanted.keys() and all(
            torch.equal(found[key], wanted[key].to(dtype)) for key in wanted
        )
        golden = load(GOLDEN / f"jax/{name}.logits.safetensors")
        difference = largest(logits_of(out, golden["ids"]), golden["logits"])
        rows.append(
            {
                "format": kind,
                "model": name,
                "tensors": str(len(found)),
                "written": dtype_name(dtype),
                "weights": "equal" if equal else "DIFFERENT",
                "logits": f"{difference:.1e}",
            }
        )
    return rows


def official_rows(path: Path, work: Path) -> list[dict[str, str]]:
    """Rows of the official round trips, with the transformers that this process imports."""
    spec = importlib.util.spec_from_file_location("official_ttt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    rows = []
    for name, base_lr in MODELS.items():
        ours = work / name
        convert(GOLDEN / f"jax/{name}.streaming_params", ours, base_lr)
        ids = load(GOLDEN / f"jax/{name}.logits.safetensors")["ids"]
        forms = {
            "one file": ExportWishes(),
            "files by size": ExportWishes(shard_bytes=_SHARD_BYTES),
            "bf16": ExportWishes(dtype=torch.bfloat16),
        }
        for number, (form, wishes) in enumerate(forms.items()):
            out = work / f"{name}-{number}"
            export(ours, out / "export", wishes)
            theirs, info = module.TTTForCausalLM.from_pretrained(
                out / "export", output_loading_info=True
            )
            left = [key for keys in info.values() for key in keys]
            with torch.no_grad():
                found = theirs.eval()(input_ids=ids).logits.float()
            difference = largest(found, logits_of(out / "export", ids))
            theirs.save_pretrained(out / "official", max_shard_size=wishes.shard_bytes)
            convert(out / "official", out / "back", None)
            ways = [
                weights_of(TTTForCausalLM.from_pretrained(out / way)) for way in ("export", "back")
            ]
            equal = all(torch.equal(ways[0][key], ways[1][key]) for key in ways[0])
            rows.append(
                {
                    "transformers": version("transformers"),
                    "model": name,
                    "form": form,
                    "loads": "; ".join(map(str, left)) or "whole",
                    "logits": f"{difference:.1e}",
                    "and back": "equal" if equal else "DIFFERENT",
                }
            )
    return rows


def train_state(path: Path, layers: int) -> int:
    """Write a synthetic train state of ttt-lm-jax in bf16; return its bytes."""
    import msgpack

    block = "seq_modeling_block"
    square, row = (_WIDTH, _WIDTH), (_WIDTH,)
    f = _WIDTH // _HEADS
    one: dict[tuple[str, ...], tuple[int, ...]] = {
        **{(name, "kernel"): row for name in ("seq_norm", "ffn_norm")},
        **{("feed_forward", name, "kernel"): (_WIDTH, _INNER) for name in ("w1", "w3")},
        ("feed_forward", "w2", "kernel"): (_INNER, _WIDTH),
        **{(block, name, "kernel"): square for name in ("wq", "wk", "wv", "wo")},
        (block, "learnable_token_idx"): (16,),
        (block, "learnable_ttt_lr/kernel"): (_HEADS, _WIDTH, 1),
        (block, "learnable_ttt_lr/bias"): (_HEADS, 1),
        **{(block, f"ttt_norm/{name}"): (_HEADS, f) for name in ("scale", "bias")},
        (block, "ttt_dense_0"): (_HEADS, f, f),
        (block, "ttt_bias_0"): (_HEADS, 1, f),
        **{(block, "post_norm", name): row for name in ("scale", "bias")},
    }
    tree = {("model", "wte", "embedding"): (_VOCAB, _WIDTH), ("model", "ln_f", "kernel"): row}
    tree |= {("model", "h", str(i), *key): s for i in range(layers) for key, s in one.items()}
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        for prefix in (("params",), ("opt_state", "1", "0", "mu"), ("opt_state", "1", "0", "nu")):
            for key, shape in tree.items():
                values = torch.randn(shape, generator=generator).bfloat16().view(torch.int16)
                array = msgpack.packb((shape, "bfloat16", values.numpy().tobytes()))
                value = msgpack.packb(msgpack.ExtType(1, array))
                file.write(msgpack.packb(((*prefix, "params", *key), value)) or b"")
    return path.stat().st_size


def peak_bytes(source: Path, out: Path) -> int:
    """Largest resident memory of a process that imports."""
    return int(_worker("memory", str(source), str(out)))


def memory(work: Path) -> list[dict[str, str]]:
    """Rows of the memory of imports."""
    least = peak_bytes(GOLDEN / "jax/linear_mamba.streaming_train_state", work / "tiny")
    rows = []
    for layers in LAYERS:
        path, out = work / "state", work / f"state-{layers}"
        size = train_state(path, layers)
        peak = peak_bytes(path, out)
        written = sum(file.stat().st_size for file in out.iterdir())
        rows.append(
            {
                "layers": str(layers),
                "file, MB": f"{size / 1e6:,.0f}",
                "written, MB": f"{written / 1e6:,.0f}",
                "largest tensor, MB": f"{_VOCAB * _WIDTH * 2 / 1e6:.1f}",
                "memory, MB": f"{peak / 1e6:,.0f}",
                "above a tiny model's, MB": f"{(peak - least) / 1e6:,.0f}",
            }
        )
        for file in (path, out / "model.safetensors"):
            file.unlink()
    return rows


def _worker(*words: str, packages: Path | None = None) -> str:
    """Run a part of this in a process of its own; return what it prints last."""
    paths = [
        *([str(packages)] if packages else []),
        str(Path.cwd()),
        os.environ.get("PYTHONPATH", ""),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.conversions", _WORKER, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def _work(kind: str, *words: str) -> None:
    """Do a worker's part."""
    torch.set_num_threads(1)
    first, second = map(Path, words)
    if kind == "memory":
        convert(first, second, 1.0)
        # Not ru_maxrss, which begins with what the parent process had taken.
        status = Path("/proc/self/status").read_text().split()
        print(int(status[status.index("VmHWM:") + 1]) * 1024)
    else:
        print(json.dumps(official_rows(first, second)))


def main() -> None:
    """Convert, compare, and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--official", type=Path, help="ttt.py of ttt-lm-pytorch")
    parser.add_argument(
        "--transformers", type=Path, nargs="*", default=[], help="folders of packages"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/conversions"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data: dict[str, Any] = {"imports": imports(work), "memory": memory(work)}
        sections = [("In", report.table(data["imports"]))]
        if asked.official is not None:
            data["official"] = []
            for number, packages in enumerate(asked.transformers or [None]):
                place = work / f"official-{number}"
                place.mkdir()
                words = ("official", str(asked.official.absolute()), str(place))
                data["official"] += json.loads(_worker(*words, packages=packages))
            sections.append(("Out to the official code, and back", report.table(data["official"])))
    sections += [("Memory", report.table(data["memory"])), ("What was compared", _NOTE)]
    command = "python -m benchmarks.conversions"
    command += " --official ttt.py" if asked.official is not None else ""
    command += " --transformers FOLDER ..." if asked.transformers else ""
    report.write(asked.out, "Models in and out", sections, data, command)


if __name__ == "__main__":
    if sys.argv[1:2] == [_WORKER]:
        _work(*sys.argv[2:])
    else:
        main()
