"""`data.json` of a run: the stores it trained on, so that it resumes with the same ones."""

import os
from pathlib import Path
from typing import Literal

from tttscale import __version__
from tttscale.data.store.manifest import Record, SplitName
from tttscale.data.store.open import open_store
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.data.windows.mixture import Mixture, MixtureComponent
from tttscale.errors import DataError
from tttscale.files import write_text
from tttscale.reading import parse_json, read_bytes

PROVENANCE_FILE = "data.json"
_PROVENANCE_BYTES = 16 << 20
_RESTORE = "Restore the file that the run wrote, or start a new run."


class SplitProvenance(Record):
    """One split that the run uses."""

    name: str
    tokens: int
    """All tokens of the split."""


class StoreProvenance(Record):
    """One store of a run."""

    store: str
    """Its path in the configuration."""
    weight: float
    fingerprint: str
    """`Store.fingerprint`."""
    tokenizer: str
    """sha256 of the tokenizer, hexadecimal."""
    splits: dict[SplitName, SplitProvenance]
    """By what they are used for; a run without held-out losses has no heldout."""


class Provenance(Record):
    """What a run trains on."""

    format_version: Literal[1] = 1
    tttscale_version: str | None = None
    """The tttscale that wrote it; 0.1.0 may not have written this."""
    stores: list[StoreProvenance]

    @classmethod
    def of(cls, tokens: Mixture) -> "Provenance":
        """Describe the stores that are open now."""
        return cls(
            tttscale_version=__version__,
            stores=[_describe(component) for component in tokens.components],
        )


def write_provenance(folder: Path, tokens: Mixture) -> None:
    """Write data.json into a run's folder."""
    write_text(folder / PROVENANCE_FILE, Provenance.of(tokens).model_dump_json(indent=2) + "\n")


def check_provenance(folder: Path, tokens: Mixture) -> None:
    """Refuse to resume with other data than the run in `folder` trained on.

    A store may have moved: its content is compared, not its path. Held-out splits may differ.

    Raises:
        DataError: data.json is missing or damaged, or other stores are open now.
    """
    path, now = folder / PROVENANCE_FILE, Provenance.of(tokens).stores
    then = _read(path).stores
    if len(then) != len(now):
        raise DataError(
            f"{path}: the run trained on {len(then)} store(s), {_listed(then)}, but the "
            f"configuration names {len(now)}, {_listed(now)}. {_remedy(then)}"
        )
    for old, new in zip(then, now, strict=True):
        if _content(old) != _content(new):
            raise DataError(
                f"{path}: the run trained on {old.store} with {_content(old)}, but {new.store} "
                f"has {_content(new)} now. {_remedy(then)}"
            )
    if _mixture(then) != _mixture(now):
        raise DataError(
            f"{path}: the run trained on {_mixture(then)}, but the configuration has "
            f"{_mixture(now)}. {_remedy(then)}"
        )


def tokenizer_notice(folder: Path, tokens: Mixture) -> str | None:
    """A notice if the weights in `folder` were trained with another tokenizer than the open stores have.

    That is known only from a file beside them, or beside the folder `final` of a run.
    """
    path = _beside(folder)
    if path is None:
        return None
    try:
        then = {record.tokenizer for record in _read(path).stores}
    except DataError as error:
        return f"which tokenizer the weights were trained with is not known: {error}"
    for component in tokens.components:
        now = component.store.info.tokenizer
        if component.store.names_tokenizer and now.digest not in then:
            return (
                f"{component.path} has the tokenizer {now.name} (sha256 {now.digest}), but by {path} the "
                f"weights were trained with {' and '.join(sorted(then))}: the same ids may mean other text"
            )
    return None


def trained_tokenizer(folder: Path) -> Tokenizer | None:
    """Find the tokenizer that a model was trained with, in one of the stores that `data.json` names.

    Args:
        folder: of a model, or of its run: the file is there or, beside `final`, one above.

    Returns:
        None: there is no such file.

    Raises:
        DataError: the stores do not say which tokenizer made them, are gone, or are others now.
    """
    path = _beside(folder)
    if path is None:
        return None
    record = _read(path).stores[0]
    remedy = "Name the tokenizer that made it with --tokenizer: bytes, or a tokenizer.json."
    try:
        tokenizer = open_store(_found(record.store, path)).tokenizer()
    except DataError as error:
        raise DataError(
            f"{path}: the model was trained on {record.store}, whose tokenizer cannot be had: "
            f"{error} {remedy}"
        ) from None
    if tokenizer.digest != record.tokenizer:
        raise DataError(
            f"{path}: the model was trained with the tokenizer of sha256 {record.tokenizer}, but "
            f"{record.store} has {tokenizer.name} of sha256 {tokenizer.digest} now. {remedy}"
        )
    return tokenizer


def read_stores(folder: Path) -> list[StoreProvenance]:
    """Read which stores the run in `folder` trained on.

    Raises:
        DataError: data.json is missing or damaged.
    """
    return _read(folder / PROVENANCE_FILE).stores


def _beside(folder: Path) -> Path | None:
    folder = folder.absolute()  # which also gives "." a name
    places = [folder, folder.parent] if folder.name == "final" else [folder]
    return next((p for place in places if (p := place / PROVENANCE_FILE).exists()), None)


def _found(store: str, run_file: Path) -> str:
    """Where a run's store is: its path begins in the folder that the run was started in."""
    folders = (Path(), *run_file.resolve().parents)
    # Unlike a path's own method this raises nothing.
    return next(filter(os.path.isdir, (str(folder / store) for folder in folders)), store)


def _describe(component: MixtureComponent) -> StoreProvenance:
    splits = component.splits.items()
    return StoreProvenance(
        store=component.path,
        weight=component.weight,
        fingerprint=component.store.fingerprint,
        tokenizer=component.store.info.tokenizer.digest,
        splits={use: SplitProvenance(name=s.name, tokens=s.num_tokens) for use, s in splits},
    )


def _read(path: Path) -> Provenance:
    try:
        fields = parse_json(read_bytes(path, _PROVENANCE_BYTES))
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}, so it is unknown what this run trained on. Give the folder "
            f"of a run that wrote it, or {path.parent / 'config.yaml'} to do without this check."
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}. {_RESTORE}") from None
    return Provenance.read(fields, path, DataError, _RESTORE)


def _content(record: StoreProvenance) -> str:
    return f"fingerprint {record.fingerprint} (tokenizer sha256 {record.tokenizer})"


def _mixture(records: list[StoreProvenance]) -> str:
    """Splits and weights, without paths, since a store may move."""
    return ", ".join(f"split {r.splits['train'].name} with weight {r.weight}" for r in records)


def _listed(records: list[StoreProvenance]) -> str:
    return ", ".join(record.store for record in records)


def _remedy(then: list[StoreProvenance]) -> str:
    key = "data.store" if len(then) == 1 else "data.blend"
    return (
        f"Restore the stores that it trained on, or name where they are now with {key}=..., or "
        "start a new run under another run.name."
    )
