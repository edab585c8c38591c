"""`tttscale eval`: measure a trained model, alone or on all ranks of a job."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tttscale.cluster import join
from tttscale.config.arguments import ModelFolder, TokenizerChoice
from tttscale.config.numbers import parse_flag
from tttscale.config.paths import path_argument, store_argument
from tttscale.scrub import scrubbed

Task = Annotated[
    list[str] | None,
    typer.Option(
        help="What to measure; may be repeated. loss (the default), inner, passkey, needle, recall, copy "
        "or state-tracking."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        parser=store_argument,
        help="A token store; default: the run's. For passkey, needle and recall the text around; "
        "default: a repeated one.",
    ),
]
Length = Annotated[
    str | None,
    typer.Option(help="Tokens of a sequence, such as 64Ki, longer or shorter than in training."),
]
Lengths = Annotated[
    str | None,
    typer.Option(
        help="Lengths of the made tasks; default: --length, or 1Ki,4Ki,16Ki.",
        metavar="N,N,...",
    ),
]
Chunk = Annotated[
    str | None,
    typer.Option(help="Tokens of a chunk; default: as in the run, or shorter."),
]
Layout = Annotated[
    Literal["striped", "contiguous"] | None,
    typer.Option(help="Which rank has which chunk; default: as in the run."),
]
Out = Annotated[
    Path | None,
    typer.Option(parser=path_argument, help="Folder of the results; default: eval in the run's."),
]


def evaluate(
    model: ModelFolder,
    task: Task = None,
    store: Store = None,
    split: Annotated[
        str | None, typer.Option(help="Of the store; default: the one that is held out.")
    ] = None,
    length: Length = None,
    sequences: Annotated[
        int | None, typer.Option(min=1, help="Sequences to read; default: all, up to 16.")
    ] = None,
    lengths: Lengths = None,
    depths: Annotated[
        int, typer.Option(min=1, max=100, help="Depths of a needle, from 0% to 100%.")
    ] = 5,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples of each length (and depth) of the made tasks.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the made tasks.")] = 0,
    chunk: Chunk = None,
    layout: Layout = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Arithmetic of matrix products.")
    ] = "fp32",
    tokenizer: TokenizerChoice = None,
    out: Out = None,
) -> None:
    """Measure a model: alone, or as one process of a torchrun, deepspeed, mpirun or srun job, as `train`.

    Every sequence is split over all ranks, so its length is bounded by their memory together. Writes
    eval.json, eval.md and a plot of each task; tasks that the folder has already of the same
    weights stay in them.

    Example: `tttscale eval runs/quickstart --length 128Ki`, or of a job:
    `tttscale launch torchrun runs/quickstart -n 2 --verb eval --task passkey --lengths 1Ki,4Ki`
    """
    words = [] if lengths is None else lengths.split(",")
    numbers = tuple(parse_flag("--lengths", word.strip()) for word in words)
    own = None if length is None else parse_flag("--length", length)
    # As in `train`, before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    ranks = join(os.environ)
    from tttscale.evaluate.main import evaluate as run
    from tttscale.evaluate.options import Options

    options = Options(
        tasks=tuple(dict.fromkeys(task or ["loss"])),
        store=store,  # type: ignore[arg-type]
        split=split,
        length=own,
        lengths=numbers or ((own,) if own else ()),
        sequences=sequences,
        depths=depths,
        samples=samples,
        seed=seed,
        chunk=None if chunk is None else parse_flag("--chunk", chunk),
        layout=layout,
        precision=precision,
        tokenizer=tokenizer,
        out=out,
        command=scrubbed(shlex.join(["tttscale", *sys.argv[1:]])),
    )
    raise typer.Exit(run(model, ranks, options))
