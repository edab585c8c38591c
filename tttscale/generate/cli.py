"""`tttscale generate`: continue a text, or read it once and keep what the model knows of it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tttscale.cluster import discover_place
from tttscale.cluster.interrupts import Interrupts
from tttscale.config.paths import path_argument, words_argument
from tttscale.data.progress import Progress, shown_progress
from tttscale.errors import ConfigError, DataError, DiskError, LaunchError, of_disk
from tttscale.observe.guard import warn
from tttscale.observe.terminal import is_watched
from tttscale.reading import read_bytes, reason

if TYPE_CHECKING:
    from tttscale.generate.session import Session
    from tttscale.model.sampling import Sampling

_PROMPT_BYTES = 1 << 30
_FEW_TOKENS = 4096
"""So many are read without a word."""


def generate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER",
            parser=path_argument,
            help="A run's folder: its final weights, else its newest checkpoint; or a model's folder.",
        ),
    ],
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
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the fewest tokens whose probabilities sum up to it."),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Draw from tokens at least so likely as this share of the likeliest."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws; the same gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="A string that ends a reply and is not shown; may be repeated."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Show text as it comes, or at the end.")
    ] = True,
    interactive: Annotated[
        bool,
        typer.Option(
            "-i",
            "--interactive",
            help="Ask for further prompts; the state stays. Ctrl-C stops a reply, Ctrl-D ends.",
        ),
    ] = False,
    save_state: Annotated[
        Path | None,
        typer.Option(parser=path_argument, help="Write what the model then knows to a file."),
    ] = None,
    load_state: Annotated[
        Path | None, typer.Option(parser=path_argument, help="Continue from such a file.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            parser=words_argument,
            help="bytes, or a tokenizer.json; default: the model's own, or its training data's.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: as torch chooses.")
    ] = None,
) -> None:
    """Continue a text with a trained model. Text goes to stdout, all else to stderr.

    A prompt may be of any length: memory does not grow with it, and neither does the time of a token.

    Example: `tttscale generate runs/quickstart "The old house" --tokens 100`, or to read once and ask often:
    `tttscale generate runs/quickstart --file book.txt --tokens 0 --save-state book.state`, and then
    `tttscale generate runs/quickstart "In the end" --load-state book.state`
    """
    _check_alone()
    text = _prompt(prompt, file, interactive)
    # Before torch is imported and the weights are read: mistakes are told at once.
    _check_place(save_state)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from tttscale.model.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, seed)
    if threads is not None:
        torch.set_num_threads(threads)
    session, keep = _session(model, tokenizer, sampling, load_state, save_state is not None)
    write = _Writer(stream)
    if text is not None or not interactive:
        _read(session, text or b"")
        if tokens:
            write.reply(session.reply(tokens, stop or ()))
    if interactive:
        _converse(session, write, tokens, stop or [])
    if save_state is not None:
        keep(save_state)
    print(session.figures.render(), file=sys.stderr)
    write.check()


def _session(
    path: Path, spec: str | None, sampling: "Sampling", load: Path | None, saves: bool
) -> "tuple[Session, Callable[[Path], None]]":
    """Load all that it takes; the function writes the session's state to a file."""
    from tttscale.generate.session import Session
    from tttscale.generate.state_file import fingerprints
    from tttscale.generate.state_file import load_state as read_state
    from tttscale.generate.state_file import save_state as write_state
    from tttscale.model import TTTForCausalLM
    from tttscale.train.model_source import model_folder, model_tokenizer

    folder, notices = model_folder(path)
    for notice in notices:
        warn(notice)
    codec = model_tokenizer(folder, spec)
    model = TTTForCausalLM.from_pretrained(folder)
    state, owner = None, fingerprints(model, codec) if load or saves else {}
    if load is not None:
        state = read_state(load, model, owner)
        if len(state.positions) != 1:
            raise ConfigError(
                f"--load-state {load}: it has {len(state.positions)} rows, and this continues one. Load it "
                "from Python, and save the row: state.rows([0])"
            )
    known = f", after {state.positions[0]:,} tokens" if state else ""
    print(f"model {folder}, tokenizer {codec.name}{known}", file=sys.stderr)
    session = Session(model, codec, sampling, state)

    def keep(place: Path) -> None:
        """Write the state."""
        after = session.state()
        try:
            write_state(place, after, owner)
        except OSError as error:
            kind = DiskError if of_disk(error) else ConfigError
            raise kind(
                f"--save-state {place}: {reason(error)}. Name a file where there is room."
            ) from None
        print(
            f"state after {after.positions[0]:,} tokens: {place} ({after.nbytes:,} bytes)",
            file=sys.stderr,
        )

    return session, keep


class _Writer:
    """Replies on stdout, piece by piece or whole."""

    def __init__(self, streams: bool) -> None:
        self._streams = streams

    def reply(self, pieces: Iterator[str]) -> None:
        """Write one; a reader that has gone ends it."""
        held: list[str] = []
        try:
            for piece in pieces:
                held.append(piece)
                if self._streams:
                    print(piece, end="", flush=True)
                if getattr(sys.stdout, "trouble", None) is not None:
                    break
        finally:
            print("" if self._streams else "".join(held), flush=True)

    def check(self) -> None:
        """Raise DataError if not all could be written, and not because the reader stopped."""
        trouble = getattr(sys.stdout, "trouble", None)
        if trouble is not None and not isinstance(trouble, BrokenPipeError):
            raise DataError(f"stdout: {reason(trouble)}. Send it where there is room.")


def _converse(session: "Session", write: _Writer, tokens: int, stops: list[str]) -> None:
    """Read lines and reply, until the input ends."""
    if Interrupts.current is not None:  # a reply can be stopped without an end of all
        Interrupts.current.release()
    shown = is_watched(sys.stderr) and sys.stdin.isatty()
    while True:
        if shown:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        with _stoppable():
            _read(session, line.rstrip(b"\r\n"))
            write.reply(session.reply(tokens, stops))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C ends what is inside, and a mistake in a line does; the next line can come."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)


def _read(session: "Session", text: bytes) -> None:
    with shown_progress(len(text) > _FEW_TOKENS) as progress:
        session.read(text, lambda done, total: progress(Progress("read", done, total)))


def _prompt(prompt: str | None, file: Path | None, interactive: bool) -> bytes | None:
    if prompt is not None and file is not None:
        raise ConfigError(f"PROMPT and --file {file}: give one of them.")
    if file is not None:
        try:
            return read_bytes(file, _PROMPT_BYTES)
        except OSError as error:
            raise DataError(f"--file {file}: {reason(error)}. Give a text file.") from None
    if prompt == "-":
        if interactive:
            raise ConfigError("- and -i: both read stdin. Give the first prompt with --file.")
        return sys.stdin.buffer.read(_PROMPT_BYTES)
    return None if prompt is None else os.fsencode(prompt)  # as it came, if it is not UTF-8, too


def _check_place(save_state: Path | None) -> None:
    """Refuse a file that could not be written, before a long text is read."""
    if save_state is None:
        return
    if save_state.is_dir() or not save_state.absolute().parent.is_dir():
        what = "is a folder" if save_state.is_dir() else "its folder does not exist"
        raise ConfigError(f"--save-state {save_state}: {what}. Name a file, such as book.state.")


def _check_alone() -> None:
    ranks = discover_place(os.environ).world_size
    if ranks > 1:
        raise LaunchError(
            f"generate runs in one process, and a launcher has started {ranks}. Start it "
            "without the launcher."
        )
