"""`tttscale data ...`: build token stores from texts, verify and inspect them."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tttscale.cluster import Ranks, discover_place
from tttscale.config.completion import complete_config, complete_override
from tttscale.config.numbers import parse_flag
from tttscale.config.paths import path_argument, store_argument, words_argument
from tttscale.data.progress import shown_progress
from tttscale.data.tokenizers.special_tokens import Role
from tttscale.errors import DataError
from tttscale.files import write_text
from tttscale.observe.guard import print_result

if TYPE_CHECKING:
    from tttscale.data import StoreInfo

app = typer.Typer(help="Build token stores and look at them.", no_args_is_help=True)

Sources = Annotated[
    list[str],
    typer.Argument(parser=words_argument, help="Text, JSONL and Parquet files, folders, globs."),
]
Store = Annotated[
    str, typer.Argument(parser=store_argument, help="A token store: a folder or a URL.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes on this host; default: its cores.")
]
TextKey = Annotated[
    str, typer.Option(help="The text's key in JSONL and Parquet; a.b for a nested one.")
]
Format = Annotated[
    list[str] | None,
    typer.Option(help="text, jsonl or parquet, for all files; or .ENDING=KIND. May be repeated."),
]
SkipBad = Annotated[
    int,
    typer.Option(min=0, help="Leave out at most so many bad documents (null text, invalid JSON)."),
]
Longest = Annotated[
    str, typer.Option(help="Bytes that a line, a row or a compressed document may have.")
]
Suffixes = Annotated[
    list[str] | None, typer.Option(help="Take only such files, e.g. .py; may be repeated.")
]
Excluded = Annotated[
    list[str] | None, typer.Option(help="Leave out such folders or files; may be repeated.")
]
HeldOut = Annotated[float, typer.Option(min=0.0, max=0.9, help="Fraction of documents held out.")]
Named = Annotated[
    str | None,
    typer.Option(help="The tokenizer's token for it, or none; default: as its folder says."),
]


@app.command("build")
def data_build(
    out: Annotated[str, typer.Argument(parser=store_argument, help="The token store to write.")],
    sources: Sources,
    tokenizer: Annotated[
        str, typer.Option(parser=words_argument, help="bytes, or a tokenizer.json.")
    ] = "bytes",
    workers: Workers = None,
    text_key: TextKey = "text",
    suffix: Suffixes = None,
    exclude: Excluded = None,
    heldout: HeldOut = 0.01,
    skip_undecodable: Annotated[
        bool,
        typer.Option(
            "--skip-undecodable",
            help="Leave out texts that are not UTF-8, where the tokenizer needs it.",
        ),
    ] = False,
    skip_bad: SkipBad = 0,
    format: Format = None,
    longest_document: Longest = "1Gi",
    bos: Named = None,
    eos: Named = None,
    pad: Named = None,
) -> None:
    """Turn texts into a token store; the same command resumes after an interruption.

    Example: `tttscale data build stores/code src/ --suffix .py --heldout 0.02`

    On several hosts that share a file system, with the same words: `tttscale launch build-data -n 4 ...`
    """
    from tttscale.data import BuildOptions, build_store

    began = time.perf_counter()
    ranks = discover_place(os.environ)
    options = BuildOptions(
        tokenizer=tokenizer,
        special=_special(bos, eos, pad),
        holdout_fraction=heldout,
        text_key=text_key,
        suffixes=suffix or None,
        exclude=exclude or (),
        skip_undecodable=skip_undecodable,
        skip_bad=skip_bad,
        formats=format or (),
        longest_bytes=parse_flag("--longest-document", longest_document),
    )
    own = workers or _share_of_cores(ranks)
    with shown_progress(ranks.rank == 0) as progress:
        info = build_store(out, sources, options, workers=own, ranks=ranks, progress=progress)
    if ranks.rank == 0:
        seconds = time.perf_counter() - began
        splits = info.splits.values()
        tokens, size = (sum(getattr(s, k) for s in splits) for k in ("tokens", "text_bytes"))
        skipped = f", {info.skipped_documents:,} skipped" if info.skipped_documents else ""
        typer.echo(
            f"{out}: {sum(s.documents for s in splits):,} documents{skipped}, {tokens:,} tokens of "
            f"{size:,} bytes of text in {seconds:.1f} s ({size / seconds / 1e6:.1f} MB/s)"
            f"{_alone(info, heldout)}"
        )
        found = (info.build.special if info.build else {}).items()
        if tokenizer != "bytes":
            typer.echo("; ".join(f"{role} {which}" for role, which in found))


@app.command("import-ids")
def data_import_ids(
    out: Annotated[str, typer.Argument(parser=store_argument, help="The token store to write.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            parser=words_argument, help=".npy, .bin with .idx, .ds; files, folders, globs."
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            parser=words_argument, help="What made the ids: a tokenizer.json, its folder, or bytes."
        ),
    ] = None,
    vocab_size: Annotated[
        str | None,
        typer.Option(help="Ids in all, such as 32k, where the tokenizer is not at hand."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the ids, such as uint16, in files that do not say it.")
    ] = None,
    workers: Workers = None,
    suffix: Suffixes = None,
    exclude: Excluded = None,
    heldout: HeldOut = 0.01,
    bos: Named = None,
    eos: Named = None,
    pad: Named = None,
) -> None:
    """Copy ready token ids into a token store; the same command resumes after an interruption.

    Read are the paper's .npy files, the .bin and .idx of Megatron-LM, the .ds of datatrove and nanotron,
    and bare numbers (.bin, --dtype). Nothing is added to a document or taken from it.

    Example: `tttscale data import-ids stores/pile pile/train.npy --tokenizer llama-2/tokenizer.json`
    """
    from tttscale.data import ImportOptions, import_ids

    began = time.perf_counter()
    ranks = discover_place(os.environ)
    options = ImportOptions(
        tokenizer=tokenizer,
        vocab_size=None if vocab_size is None else parse_flag("--vocab-size", vocab_size),
        special=_special(bos, eos, pad),
        dtype=dtype,
        holdout_fraction=heldout,
        suffixes=suffix or None,
        exclude=exclude or (),
    )
    own = workers or _share_of_cores(ranks)
    with shown_progress(ranks.rank == 0) as progress:
        info = import_ids(out, sources, options, workers=own, ranks=ranks, progress=progress)
    if ranks.rank == 0:
        seconds = time.perf_counter() - began
        documents, tokens = (
            sum(getattr(split, key) for split in info.splits.values())
            for key in ("documents", "tokens")
        )
        assert info.build is not None
        typer.echo(
            f"{out}: {documents:,} documents, {tokens:,} tokens of {len(info.build.id_files):,} files "
            f"in {seconds:.1f} s ({tokens / seconds / 1e6:.1f}M tokens/s){_alone(info, heldout)}"
        )
        typer.echo("; ".join(f"{role} {which}" for role, which in info.build.special.items()))


@app.command("tokenizer")
def data_tokenizer(
    out: Annotated[Path, typer.Argument(parser=path_argument, help="The tokenizer.json to write.")],
    sources: Sources,
    vocab: Annotated[str, typer.Option(help="Ids in all, such as 32k.")] = "32k",
    sample: Annotated[str, typer.Option(help="Bytes of text to train on.")] = "64Mi",
    text_key: TextKey = "text",
    suffix: Suffixes = None,
    exclude: Excluded = None,
    skip_bad: SkipBad = 0,
    format: Format = None,
) -> None:
    """Train a byte-level BPE tokenizer on a sample of the sources.

    Example: `tttscale data tokenizer stores/code.json src/ --suffix .py --vocab 32k`
    """
    from tttscale.data.builder.train_tokenizer import train_tokenizer

    found = train_tokenizer(
        out,
        sources,
        vocab_size=parse_flag("--vocab", vocab),
        sample_bytes=parse_flag("--sample", sample),
        text_key=text_key,
        suffixes=suffix or None,
        exclude=exclude or (),
        formats=format or (),
        skip_bad=skip_bad,
    )
    typer.echo(f"{out}: {found:,} ids")


@app.command("info")
def data_info(store: Store) -> None:
    """Print what a token store holds.

    Example: `tttscale data info stores/code`
    """
    from tttscale.data import open_store, render_info

    opened = open_store(store, damaged="pad")
    print_result(render_info(opened.info))
    if opened.quarantine:
        typer.echo(opened.quarantine.render())


@app.command("verify")
def data_verify(
    store: Store,
    workers: Workers = None,
    report: Annotated[
        Path | None,
        typer.Option(parser=path_argument, help="Write the findings to this JSON file, too."),
    ] = None,
    mark: Annotated[
        bool,
        typer.Option(
            "--quarantine",
            help="Note damaged ranges in the store; data.damaged=pad reads them as padding.",
        ),
    ] = False,
) -> None:
    """Read every byte of a store and report what is damaged where.

    Example: `tttscale data verify stores/code --workers 8`
    """
    from tttscale.data.store.verify import advice, folder_to_mark, quarantine, verify_store

    if mark:
        folder_to_mark(store)  # not after hours of reading
    ranks = discover_place(os.environ)
    own = workers or _share_of_cores(ranks)
    with shown_progress(ranks.rank == 0) as progress:
        found = verify_store(store, workers=own, ranks=ranks, progress=progress)
    if ranks.rank:
        return
    print_result(found.render())
    if report:
        try:
            write_text(report, json.dumps(found.to_json(), indent=1) + "\n")
        except OSError as error:
            raise DataError(
                f"--report {report}: {error.strerror}. Name a file there is room for."
            ) from error
    if mark:
        ranges = quarantine(store, found).ranges
        tokens = sum(r.end - r.begin for r in ranges)
        typer.echo(f"quarantined: {tokens:,} tokens in {len(ranges)} ranges")
    elif to_do := advice(store, found):
        if found.damages:
            raise DataError(to_do)
        typer.echo(to_do)


@app.command("show")
def data_show(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_CONFIG",
            parser=path_argument,
            autocompletion=complete_config,
            help="A run's folder, its YAML file, or a name that `tttscale configs` lists.",
        ),
    ],
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="The training step, from 1.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", autocompletion=complete_override, help="Such as data.store=PATH."
        ),
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
    from tttscale.data.inspect_report import render_step
    from tttscale.data.inspect_step import inspect_step, open_run

    config, opened = open_run(run, overrides or [])
    shown = inspect_step(config, opened, step, excerpt_tokens=tokens, most_documents=documents)
    print_result(json.dumps(shown.as_json(), indent=2) if as_json else render_step(shown))


def _special(bos: str | None, eos: str | None, pad: str | None) -> dict[Role, str]:
    named: dict[Role, str | None] = {"bos": bos, "eos": eos, "pad": pad}
    return {role: token for role, token in named.items() if token is not None}


def _alone(info: "StoreInfo", heldout: float) -> str:
    if not heldout or info.splits["heldout"].documents:
        return ""
    return "; no document is held out, a single one is not split"


def _share_of_cores(ranks: Ranks) -> int:
    return max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)
