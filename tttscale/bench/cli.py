"""`tttscale bench ...`: measured figures, each with a report."""

from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.completion import complete_config, complete_override
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
    config: Annotated[
        Path | None,
        typer.Argument(
            parser=path_argument,
            autocompletion=complete_config,
            help="With --calibrate: the run's YAML file, or a name that `tttscale configs` lists; "
            "default: the quickstart's model.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            autocompletion=complete_override,
            help="Such as parallel.threads=1.",
        ),
    ] = None,
    out: Out = Path("benchmarks/step_cpu"),
    lengths: Annotated[str, typer.Option(help="Context lengths, such as 64Ki,256Ki,1Mi.")] = "64Ki",
    ranks: Annotated[str, typer.Option(help="Numbers of sequence ranks, such as 1,2.")] = "1,2",
    chunk: Annotated[str, typer.Option(help="Tokens per chunk.")] = "2Ki",
    keep: Annotated[str, typer.Option(help="parallel.keep_chunks: a number or auto.")] = "1",
    steps: Annotated[
        int, typer.Option(min=1, help="Steps per measurement; the fastest counts.")
    ] = 2,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure what every activity of CONFIG's model costs here, and write --costs.",
        ),
    ] = False,
    costs: Annotated[
        Path,
        typer.Option(
            parser=path_argument, help="With --calibrate: the file that --gpu measured reads."
        ),
    ] = Path("costs.json"),
    at_once: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --calibrate, on CPUs: how many ranks of the run compute at once on a host.",
        ),
    ] = 1,
) -> None:
    """A whole optimizer step of the quickstart's model, by context length and by ranks.

    With --calibrate: the costs of CONFIG's model, with which plan and rehearse compute.

    Example: `tttscale bench step --lengths 64Ki,256Ki --ranks 1,2`, or
    `tttscale bench step --calibrate quickstart parallel.threads=1`
    """
    if calibrate:
        _calibrate(config, overrides or [], costs, steps, at_once)
        return
    if at_once > 1:
        raise ConfigError(f"--at-once {at_once} is for --calibrate; add that, or leave it out")
    if config is not None:
        raise ConfigError(
            f"bench step {config}: it measures the quickstart's model. Leave CONFIG out, or add --calibrate"
        )
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


def _calibrate(
    config: Path | None, overrides: list[str], costs: Path, steps: int, at_once: int
) -> None:
    from tttscale.bench.calibrate import calibrate
    from tttscale.bench.step_worker import small_config
    from tttscale.config import load_config

    resolved = load_config(config, overrides) if config else small_config(65536, 2048, "1", 1, 1)
    typer.echo(calibrate(resolved, costs, steps, at_once))


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


_MOVED = {
    "kernels": "python -m benchmarks.static.kernels",
    "around": "python -m benchmarks.ops.pointwise",
    "documents": "python -m benchmarks.ops.documents",
    "products": "python -m benchmarks.ops.products",
}
"""Command -> what does the same, in a checkout."""


def _refuse(name: str, now: str) -> None:
    """Add a command that only says where it is now."""

    @app.command(
        name,
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def moved() -> None:
        """Say where the command is now."""
        raise ConfigError(
            f"bench {name} is for developers and no longer installed; in a checkout: {now}"
        )


for _name, _now in _MOVED.items():
    _refuse(_name, _now)
