"""`tttscale generate`: in one process, or as one rank of a job whose ranks read a long prompt together."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tttscale import __version__
from tttscale.cluster import Ranks, discover_place, join
from tttscale.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DiskError,
    LaunchError,
    PeerError,
)
from tttscale.generate.replies import Writer, converse, read_text
from tttscale.reading import read_bytes, reason

if TYPE_CHECKING:
    import torch

    from tttscale.generate.loaded import Loaded
    from tttscale.generate.session import Session
    from tttscale.generate.split_reading import SplitReader
    from tttscale.model.sampling import Sampling

_PROMPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Options:
    """What the command line says; see its help."""

    model: Path
    prompt: str | None
    file: Path | None
    tokens: int
    choice: tuple[float, int | None, float | None, float | None, int]
    """temperature, top_k, top_p, min_p and seed."""
    stops: tuple[str, ...]
    stream: bool
    interactive: bool
    save_state: Path | None
    load_state: Path | None
    tokenizer: str | None
    device: str
    dtype: str
    threads: int | None


def run(options: Options) -> None:
    """Read, and write what follows.

    Raises:
        TTTScaleError: of any kind; mistakes on the command line before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ranks = discover_place(os.environ)
    if ranks.world_size > 1:
        _as_rank(options)
        return
    text = _prompt(options)
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    sampling = _sampling(options)
    loaded = _load(options, ranks, _device(options, ranks))
    _answer(options, loaded, _session(options, loaded, sampling), text)


def _as_rank(options: Options) -> None:
    """Be one rank of a job: the first one has the text, and writes what follows it."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    ranks = join(os.environ)
    if options.interactive:
        raise LaunchError(
            f"-i talks with one process, and a launcher has started {ranks.world_size}. Read the text with "
            "--tokens 0 --save-state F, and start -i --load-state F without the launcher"
        )
    import torch

    from tttscale.comm.collective import on_all_ranks
    from tttscale.comm.dismissal import Dismissal
    from tttscale.comm.mesh import start
    from tttscale.generate.split_reading import SplitReader

    torch.set_num_threads(options.threads or ranks.cores())
    device = _device(options, ranks)
    mesh = start(
        ranks, ranks.world_size, device, {"version": __version__, "--dtype": options.dtype}
    )
    dismissal = Dismissal(mesh)
    prepared: list[tuple[bytes | None, Sampling, Loaded]] = []

    def prepare() -> str:
        """Load what this rank needs, and return whose weights it has."""
        text = _prompt(options) if ranks.rank == 0 else None
        prepared.append((text, _sampling(options), _load(options, ranks, device)))
        return prepared[0][-1].owner["model"]

    kinds = DiskError, ConfigError, CheckpointError, LaunchError, DataError
    _check_same(on_all_ranks(mesh, prepare, *kinds))
    text, sampling, loaded = prepared.pop()
    reader = SplitReader(loaded.model, mesh)
    if ranks.rank == 0:
        try:
            _answer(options, loaded, _session(options, loaded, sampling, reader), text)
        except BaseException as error:
            if not isinstance(error, PeerError):  # else those that are left notice it themselves
                reader.cancel()
                dismissal.dismiss()
            raise
        reader.cancel()
        dismissal.dismiss()
    else:
        reader.help()
        del loaded, reader  # it may wait for long
        dismissal.wait()
    mesh.close()


def _check_same(models: list[str]) -> None:
    for rank, model in enumerate(models):
        if model != models[0]:
            raise LaunchError(
                f"the model of rank {rank} (fingerprint {model}) differs from rank 0's ({models[0]}). Give "
                "all hosts the same folder"
            )


def _device(options: Options, ranks: Ranks) -> "torch.device":
    from tttscale.model.device import choose_device

    return choose_device(options.device, ranks.local_rank, "--device", "--device cpu")


def _sampling(options: Options) -> "Sampling":
    from tttscale.model.sampling import Sampling

    return Sampling(*options.choice)


def _load(options: Options, ranks: Ranks, device: "torch.device") -> "Loaded":
    from tttscale.generate.loaded import Loaded

    states = options.load_state is not None or options.save_state is not None
    return Loaded.load(
        options.model,
        options.tokenizer,
        device,
        options.dtype,
        is_told_apart=states or ranks.world_size > 1,
    )


def _session(
    options: Options,
    loaded: "Loaded",
    sampling: "Sampling",
    reader: "SplitReader | None" = None,
) -> "Session":
    """Begin, or continue from a state; with a reader on all ranks of a job."""
    from tttscale.generate.session import Session
    from tttscale.model.decoder import Decoder

    state = None if options.load_state is None else loaded.state(options.load_state)
    loaded.announce(state)
    read = Decoder.read if reader is None else reader.read
    return Session(loaded.model, loaded.tokenizer, sampling, state, read)


def _answer(options: Options, loaded: "Loaded", session: "Session", text: bytes | None) -> None:
    """Read the prompt, write what follows, and save the state, as the options say."""
    write = Writer(options.stream)

    def reply() -> None:
        """Write one."""
        write.reply(session.reply(options.tokens, options.stops))

    if text is not None or not options.interactive:
        read_text(session, text or b"")
        if options.tokens:
            reply()
    if options.interactive:
        converse(session, reply)
    if options.save_state is not None:
        _save(options.save_state, loaded, session)
    print(session.figures.render(), file=sys.stderr)
    write.check()


def _save(path: Path, loaded: "Loaded", session: "Session") -> None:
    """Save the state, if there is one: a conversation may have ended before its first line."""
    state = session.state()
    if state.positions[0]:
        loaded.save(path, state)
    else:
        print(f"nothing has been read, so {path} is not written", file=sys.stderr)


def _prompt(options: Options) -> bytes | None:
    """Read the prompt, and refuse mistakes that can be seen before the weights are read."""
    _check_place(options.save_state)
    prompt, file = options.prompt, options.file
    if prompt is not None and file is not None:
        raise ConfigError(f"PROMPT and --file {file}: give one of them.")
    if file is not None:
        try:
            return read_bytes(file, _PROMPT_BYTES)
        except OSError as error:
            raise DataError(f"--file {file}: {reason(error)}. Give a text file.") from None
    if prompt == "-":
        if options.interactive:
            raise ConfigError("- and -i: both read stdin. Give the first prompt with --file.")
        return _stdin()
    return None if prompt is None else os.fsencode(prompt)  # as it came, if it is not UTF-8, too


def _stdin() -> bytes:
    text = sys.stdin.buffer.read(_PROMPT_BYTES + 1)
    if len(text) > _PROMPT_BYTES:
        raise DataError(
            f"stdin: more than {_PROMPT_BYTES:,} bytes. Read the text in parts: --save-state F after each, "
            "--load-state F before the next."
        )
    return text


def _check_place(save_state: Path | None) -> None:
    """Refuse a file that could not be written, before a long text is read."""
    if save_state is None:
        return
    if save_state.is_dir() or not save_state.absolute().parent.is_dir():
        what = "is a folder" if save_state.is_dir() else "its folder does not exist"
        raise ConfigError(f"--save-state {save_state}: {what}. Name a file, such as book.state.")
