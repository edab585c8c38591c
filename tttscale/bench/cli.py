"""`tttscale bench ...`: measured figures, each with a report."""

from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.numbers import parse_flag
from tttscale.config.paths import path_argument, store_argument, words_argument
from tttscale.errors import ConfigError

app = typer.Typer(help="Measure, and write reports with their circumstances.", no_args_is_help=True)

Out = Annotated[
    Path,
    typer.Option(
        parser=path_argument, help="Report path without suffix; .md and .json are written."
    ),
]


@app.command("scan")
def scan(
    out: Out = Path("benchmarks/scan_cpu"),
    tokens: Annotated[int, typer.Option(min=1, help="Sequence length.")] = 4096,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repetitions.")] = 3,
    official: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument, help="ttt.py of ttt-lm-pytorch, to measure beside ours."
        ),
    ] = None,
) -> None:
    """A TTT layer's forward and backward on one CPU thread.

    Example: `tttscale bench scan --official ../ttt-lm-pytorch/ttt.py`
    """
    from tttscale.bench.scan import bench_scan

    if official is not None and not official.is_file():
        raise ConfigError(f"--official {official}: no such file; give the path of its ttt.py")
    typer.echo(bench_scan(out, tokens, repeats, official))


@app.command("step")
def step(
    out: Out = Path("benchmarks/step_cpu"),
    lengths: Annotated[str, typer.Option(help="Context lengths, such as 64Ki,256Ki,1Mi.")] = "64Ki",
    ranks: Annotated[str, typer.Option(help="Numbers of sequence ranks, such as 1,2.")] = "1,2",
    chunk: Annotated[str, typer.Option(help="Tokens per chunk.")] = "2Ki",
    keep: Annotated[str, typer.Option(help="parallel.keep_chunks: a number or auto.")] = "1",
    steps: Annotated[
        int, typer.Option(min=1, help="Steps per measurement; the fastest counts.")
    ] = 2,
) -> None:
    """A whole optimizer step of the quickstart's model, by context length and by ranks.

    Example: `tttscale bench step --lengths 64Ki,256Ki --ranks 1,2`
    """
    from tttscale.bench.step import bench_step
    from tttscale.model.architecture import TTTConfig

    sizes = [parse_flag("--lengths", word) for word in lengths.split(",")]
    counts = [parse_flag("--ranks", word) for word in ranks.split(",")]
    if keep != "auto" and not keep.isdecimal():
        raise ConfigError(f"--keep {keep!r}: expected auto, or a whole number of at least 0")
    chunk_tokens = parse_flag("--chunk", chunk)
    mini = TTTConfig.model_fields["mini_batch_size"].default
    if chunk_tokens % mini:
        up = -(-chunk_tokens // mini) * mini
        raise ConfigError(
            f"--chunk {chunk} is not a multiple of the model's {mini} tokens a mini-batch; set --chunk {up}"
        )
    typer.echo(bench_step(out, sizes, counts, chunk_tokens, keep, steps))


@app.command("products")
def products(
    out: Out = Path("benchmarks/products_cpu"),
    widths: Annotated[str, typer.Option(help="quickstart, wide, or both.")] = "quickstart,wide",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the fastest counts.")] = 3,
) -> None:
    """A step's sweeps with torch's fp32 products and with oneDNN's, in turns on one CPU thread.

    Example: `tttscale bench products --widths quickstart`
    """
    from tttscale.bench.products_cpu import WIDTHS, bench_products
    from tttscale.kernels.ops import cpu_product

    chosen = widths.split(",")
    if unknown := [width for width in chosen if width not in WIDTHS]:
        raise ConfigError(f"--widths {unknown[0]!r:.40}: expected some of {', '.join(WIDTHS)}")
    if (missing := cpu_product.why_not()) is not None:
        raise ConfigError(f"bench products compares with oneDNN's product, which {missing}")
    typer.echo(bench_products(out, chosen, rounds))


@app.command("around")
def around(out: Out = Path("benchmarks/around_cpu")) -> None:
    """RMSNorm, SwiGLU and cross-entropy: ours beside torch.compile and, on a GPU, liger-kernel.

    Example: `tttscale bench around`
    """
    from tttscale.bench.around import bench_around

    typer.echo(bench_around(out))


@app.command("documents")
def documents(
    out: Out = Path("benchmarks/documents_cpu"),
    tokens: Annotated[str, typer.Option(help="Tokens of the chunk.")] = "8Ki",
) -> None:
    """A chunk of packed documents: scanned side by side, and one after the other.

    Example: `tttscale bench documents --tokens 8Ki`
    """
    from tttscale.bench.documents import bench_documents

    typer.echo(bench_documents(out, parse_flag("--tokens", tokens)))


@app.command("kernels")
def kernels(
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument,
            help="Report path without suffix; default: benchmarks/kernels_smN, and _paper without --all.",
        ),
    ] = None,
    capability: Annotated[int, typer.Option(help="N: 90 (Hopper) or 80 (A100).")] = 90,
    everything: Annotated[
        bool, typer.Option("--all", help="Every head dim, mini-batch and dtype that is shipped.")
    ] = False,
    fla: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument, help="Folder of an unpacked fla-core, to predict beside ours."
        ),
    ] = None,
) -> None:
    """Registers, spills and shared memory of the Triton kernels; no GPU needed.

    Without --all: those of the paper's shape, head dim 64 and mini-batches of 16.

    Example: `tttscale bench kernels --all`
    """
    from tttscale.bench.kernels import bench_kernels

    if capability not in (80, 90):
        raise ConfigError(f"--capability {capability}: expected 90 (Hopper) or 80 (A100)")
    if fla is not None and not (fla / "fla").is_dir():
        raise ConfigError(f"--fla {fla}: no folder fla in it; unpack the wheel of fla-core there")
    # Two generations, or few kernels and all, are not one report: neither overwrites the other.
    name = f"kernels_sm{capability}{'' if everything else '_paper'}"
    typer.echo(bench_kernels(out or Path("benchmarks", name), capability, everything, fla))


@app.command("build")
def build(
    sources: Annotated[
        list[str], typer.Argument(parser=words_argument, help="Files, folders, globs of text.")
    ],
    tokenizer: Annotated[str, typer.Option(parser=words_argument, help="A tokenizer.json.")],
    out: Out = Path("benchmarks/build_cpu"),
    suffix: Annotated[list[str] | None, typer.Option(help="Take only such files.")] = None,
    megabytes: Annotated[int, typer.Option(min=1, help="About how much text.")] = 64,
    workers: Annotated[str, typer.Option(help="Numbers of workers, such as 1,2.")] = "1,2",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each.")] = 2,
) -> None:
    """Building a token store, beside the speed of the tokenizer alone.

    Example: `tttscale bench build src/ --suffix .py --tokenizer tokenizer.json`
    """
    from tttscale.bench.build import bench_build

    counts = [parse_flag("--workers", word) for word in workers.split(",")]
    typer.echo(bench_build(out, sources, tokenizer, suffix or None, megabytes, counts, rounds))


@app.command("data")
def data(
    store: Annotated[
        str, typer.Argument(parser=store_argument, help="A token store: a folder or a URL.")
    ],
    split: Annotated[str, typer.Option(help="Its split.")] = "train",
    sequence: Annotated[str, typer.Option(help="Tokens per window.")] = "1Mi",
    chunk: Annotated[str, typer.Option(help="Tokens per chunk.")] = "8Ki",
    ranks: Annotated[str, typer.Option(help="Numbers of sequence ranks, such as 1,8.")] = "1,8,64",
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = 9,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Also MosaicML streaming and Megatron Core, if installed."),
    ] = False,
    out: Out = Path("benchmarks/data_cpu"),
) -> None:
    """Reading windows and chunks of a token store, beside other ways to read the same tokens.

    Example: `tttscale bench data stores/code --ranks 1,8,64 --peers`
    """
    from tttscale.bench.data import bench_data

    window, piece = parse_flag("--sequence", sequence), parse_flag("--chunk", chunk)
    counts = [parse_flag("--ranks", word) for word in ranks.split(",")]
    typer.echo(bench_data(out, store, split, window, piece, counts, repeats, peers))
