"""`tttscale data ...`: token stores from texts, and looks into them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build token stores and look at them.", no_args_is_help=True)


@app.command("build")
def data_build(
    out: Annotated[Path, typer.Argument(help="The token store to write.")],
    sources: Annotated[list[Path], typer.Argument(help="Files or folders of text.")],
    tokenizer: Annotated[str, typer.Option(help="bytes, or a tokenizer.json.")] = "bytes",
    text_key: Annotated[str, typer.Option(help="The text's key in JSONL.")] = "text",
    suffix: Annotated[
        list[str] | None, typer.Option(help="Take only such files, e.g. .py; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out such folders or files; may be repeated.")
    ] = None,
    heldout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Fraction of documents held out.")
    ] = 0.01,
    skip_undecodable: Annotated[
        bool,
        typer.Option(
            "--skip-undecodable",
            help="Leave out texts that are not UTF-8, where the tokenizer needs it.",
        ),
    ] = False,
) -> None:
    """Turn text files into a token store.

    Example: `tttscale data build stores/code src/ --suffix .py --heldout 0.02`
    """
    from tttscale.data import build_store

    began = time.perf_counter()
    with _build_progress() as progress:
        info = build_store(
            out,
            [str(source) for source in sources],
            tokenizer=tokenizer,
            holdout_fraction=heldout,
            text_key=text_key,
            suffixes=suffix or None,
            exclude=exclude or (),
            skip_undecodable=skip_undecodable,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    splits = info.splits.values()
    tokens, text_bytes = (sum(getattr(s, k) for s in splits) for k in ("tokens", "text_bytes"))
    skipped = f", {info.skipped_documents:,} skipped" if info.skipped_documents else ""
    typer.echo(
        f"{out}: {sum(s.documents for s in splits):,} documents{skipped}, {tokens:,} tokens of "
        f"{text_bytes:,} bytes of text in {seconds:.1f} s"
    )


@app.command("info")
def data_info(store: Annotated[Path, typer.Argument(help="A token store.")]) -> None:
    """Say what a token store holds.

    Example: `tttscale data info stores/code`
    """
    from tttscale.data import TokenStore, render_info

    typer.echo(render_info(TokenStore.open(store).info))


@contextmanager
def _build_progress() -> Iterator[Callable[[int, int], None] | None]:
    """A line that counts documents on a terminal; nothing in a log."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    counts = TextColumn("{task.fields[documents]:,} documents, {task.fields[megabytes]:,.1f} MB")
    columns = (SpinnerColumn(), counts, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("build", total=None, documents=0, megabytes=0.0)
        yield lambda documents, read_bytes: progress.update(
            task, documents=documents, megabytes=read_bytes / 1e6
        )


@app.command("show")
def data_show(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_OR_CONFIG", help="A run's folder, or a run's YAML file.")
    ],
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="The training step, from 1.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as data.store=PATH.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of each document to decode; 0 shows no text.")
    ] = 32,
    documents: Annotated[int, typer.Option(min=0, help="Documents of each sequence to show.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a training step reads: windows, documents, and how they begin.

    Example: `tttscale data show runs/quickstart 12 --tokens 64`
    """
    import json

    from tttscale.data.show import open_run, show_step
    from tttscale.data.shown import render_step

    config, opened = open_run(run, overrides or [])
    shown = show_step(config, opened, step, excerpt_tokens=tokens, most_documents=documents)
    typer.echo(json.dumps(shown.as_json(), indent=2) if as_json else render_step(shown))
