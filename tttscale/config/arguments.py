"""Arguments of the command line that several verbs have."""

from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.completion import complete_config, complete_override
from tttscale.config.paths import path_argument, words_argument

ConfigFile = Annotated[
    Path,
    typer.Argument(
        parser=path_argument,
        autocompletion=complete_config,
        help="The run's YAML file, or a name that `tttscale configs` lists.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        autocompletion=complete_override,
        help="Such as train.lr=3e-4 or data.sequence_length=64Ki.",
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(parser=path_argument, help="A run's folder, such as runs/quickstart.")
]
ModelFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|FOLDER",
        parser=path_argument,
        help="A run's folder: its final weights, else its newest checkpoint; or a model's folder.",
    ),
]
TokenizerChoice = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        parser=words_argument,
        help="bytes, or a tokenizer.json; default: the model's own, or its training data's.",
    ),
]
