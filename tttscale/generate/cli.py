"""`tttscale generate`: the flags."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.arguments import ModelFolder, TokenizerChoice
from tttscale.config.paths import path_argument


class Device(StrEnum):
    """Where the model computes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """What parameters are kept in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


TopP = Annotated[
    float | None,
    typer.Option(help="Draw from the fewest tokens whose probabilities sum up to it."),
]
MinP = Annotated[
    float | None,
    typer.Option(help="Draw from tokens at least so likely as this share of the likeliest."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="A string that ends a reply and is not shown; may be repeated."),
]
Interactive = Annotated[
    bool,
    typer.Option(
        "-i",
        "--interactive",
        help="Ask for further prompts; the state stays. Ctrl-C stops a reply, Ctrl-D ends.",
    ),
]
SaveState = Annotated[
    Path | None,
    typer.Option(parser=path_argument, help="Write what the model then knows to a file."),
]
LoadState = Annotated[
    Path | None,
    typer.Option(parser=path_argument, help="Continue from such a file, also without a prompt."),
]


def generate(
    model: ModelFolder,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT|-", help="The text to continue; - for stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(parser=path_argument, help="Read the prompt from a file.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=0, help="The most tokens of a reply; 0 only reads.")
    ] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most likely token; higher is more random.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the K most likely tokens.")] = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Annotated[int, typer.Option(help="Of the draws; the same gives the same text.")] = 0,
    stop: Stop = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Show text as it comes, or at the end.")
    ] = True,
    interactive: Interactive = False,
    save_state: SaveState = None,
    load_state: LoadState = None,
    tokenizer: TokenizerChoice = None,
    device: Annotated[
        Device, typer.Option(help="Where to compute; auto: a GPU if there is one.")
    ] = Device.AUTO,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the parameters; auto: as they are stored. States stay fp32.")
    ] = Dtype.AUTO,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a process; default: as torch chooses.")
    ] = None,
) -> None:
    """Continue a text with a trained model. Text goes to stdout, all else to stderr.

    A prompt may be of any length: memory does not grow with it, and neither does the time of a token. Started
    by a launcher, all ranks read a long prompt together, and the first one writes.

    Example: `tttscale generate runs/quickstart "The old house" --tokens 100`, or to read once and ask often:
    `tttscale generate runs/quickstart --file book.txt --tokens 0 --save-state book.state`, and then
    `tttscale generate runs/quickstart "In the end" --load-state book.state`
    """
    from tttscale.generate.main import Options, run

    run(
        Options(
            model,
            prompt,
            file,
            tokens,
            (temperature, top_k, top_p, min_p, seed),
            tuple(stop or ()),
            stream,
            interactive,
            save_state,
            load_state,
            tokenizer,
            device.value,
            dtype.value,
            threads,
        )
    )
