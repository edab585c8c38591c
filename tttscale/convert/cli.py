"""`tttscale import` and `tttscale export`: models of other code in, and models of ours out."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tttscale.cluster import discover_place
from tttscale.config.numbers import parse_flag
from tttscale.config.paths import path_argument, words_argument
from tttscale.data.progress import Progress, shown_progress
from tttscale.errors import ConfigError, LaunchError
from tttscale.observe.guard import print_result
from tttscale.scrub import scrubbed

if TYPE_CHECKING:
    from tttscale.convert.model_files import ModelFiles

_SHARD = "5G"
_QUIET_BYTES = 1 << 30
"""A smaller model is written without showing progress."""
Out = Annotated[
    Path, typer.Argument(parser=path_argument, help="The folder to write; it must not exist.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Of the weights that are written; default: as they are."),
]
ShardBytes = Annotated[
    str, typer.Option("--shard-bytes", help="Largest file of weights, such as 5G or 500Mi.")
]


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            parser=path_argument,
            help="A folder of weights, a safetensors file, or a streaming_train_state of ttt-lm-jax.",
        ),
    ],
    out: Out,
    ttt_base_lr: Annotated[
        float | None,
        typer.Option(help="Inner learning rate of the weights, where their files do not say it."),
    ] = None,
    rope_theta: Annotated[
        float | None, typer.Option(help="Base of the rotary angles, likewise.")
    ] = None,
    rms_norm_eps: Annotated[
        float | None, typer.Option(help="Epsilon of the norms, likewise.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            parser=words_argument,
            help="bytes, or a tokenizer.json; default: the one beside the weights, if there is one.",
        ),
    ] = None,
    dtype: Dtype = None,
    shard_bytes: ShardBytes = _SHARD,
    check_logits: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument,
            help="Compare with logits of the model's own code: safetensors of input_ids and logits.",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference there, as a share of the largest logit.")
    ] = 1e-4,
) -> None:
    """Import a model: of the official PyTorch code, of ttt-lm-jax, or of ttt-lm-kernels.

    What SOURCE is, is found from its content. Every tensor is checked: that it is there once, its shape, and
    that its values are finite. OUT is written whole or not at all, one tensor at a time.

    Example: `tttscale import streaming_train_state model --ttt-base-lr 1.0 --tokenizer tokenizer.json`
    """
    _check_alone("import")
    limit = parse_flag("--shard-bytes", shard_bytes)
    given = {"ttt_base_lr": ttt_base_lr, "rope_theta": rope_theta, "rms_norm_eps": rms_norm_eps}
    for name, value in given.items():
        _check_positive("--" + name.replace("_", "-"), value)
    _check_positive("--tolerance", tolerance)
    _check_free(out)
    from tttscale.convert.import_model import Wishes, import_model
    from tttscale.convert.settle import Given
    from tttscale.convert.source import DTYPE_NAMES

    wishes = Wishes(
        given=Given(**given),
        tokenizer=tokenizer,
        dtype=DTYPE_NAMES[dtype] if dtype else None,
        shard_bytes=limit,
        logits=check_logits,
        tolerance=tolerance,
    )
    _report(out, lambda progress: import_model(source, out, wishes, _notice, progress))


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER",
            parser=path_argument,
            help="A run's folder (its final weights, else its newest whole checkpoint), one of its "
            "checkpoints, or a model's folder.",
        ),
    ],
    out: Out,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            parser=words_argument,
            help="bytes, a tokenizer.json, or none; default: the model's own, or its training data's.",
        ),
    ] = None,
    dtype: Dtype = None,
    shard_bytes: ShardBytes = _SHARD,
) -> None:
    """Export a model: weights, configuration, tokenizer and a model card, as other programs expect them.

    Example: `tttscale export runs/quickstart model`, or of one checkpoint:
    `tttscale export runs/quickstart/checkpoints/step-100 model`
    """
    _check_alone("export")
    limit = parse_flag("--shard-bytes", shard_bytes)
    _check_free(out)
    from tttscale.convert.export_model import Wishes, export_model
    from tttscale.convert.source import DTYPE_NAMES

    wishes = Wishes(tokenizer, DTYPE_NAMES[dtype] if dtype else None, limit)
    _report(out, lambda progress: export_model(model, out, wishes, _notice, progress))


def _report(out: Path, work: "Callable[[Callable[[int, int], None]], ModelFiles]") -> None:
    from tttscale.convert.source import dtype_name, widest
    from tttscale.observe import human

    with shown_progress() as show:

        def progress(done: int, total: int) -> None:
            """Show how far it is, of a model that takes a while."""
            if total > _QUIET_BYTES:
                show(Progress("weights", done, total))

        files = work(progress)
    dtype = dtype_name(widest({spec.dtype for spec in files.specs.values()}))
    print_result(
        f"{out}: {files.source.parameters:,} parameters in {dtype}, {human(files.total_bytes)}B"
    )


def _notice(line: str) -> None:
    print(scrubbed(line), file=sys.stderr)


def _check_alone(verb: str) -> None:
    ranks = discover_place(os.environ).world_size
    if ranks > 1:
        raise LaunchError(
            f"{verb} runs in one process, and a launcher has started {ranks}. Start it without the launcher."
        )


def _check_positive(flag: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(f"{flag} {value}: expected a finite number above 0.")


def _check_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists already. Name a folder that does not exist.")
