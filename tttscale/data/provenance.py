"""`data.json` of a run: which stores it trained on, so that nothing goes on with others."""

from pathlib import Path
from typing import Literal

from tttscale import __version__
from tttscale.data.store.manifest import Record, SplitName
from tttscale.data.windows.mixture import Component, Tokens
from tttscale.errors import DataError
from tttscale.files import write_text
from tttscale.reading import parse_json, read_bytes

RECORD_NAME = "data.json"
_RECORD_BYTES = 16 << 20
_PUT_BACK = "Put back the file that the run wrote, or start a new run."


class SplitRecord(Record):
    """One split that the run uses."""

    name: str
    tokens: int
    """All tokens of the split."""


class StoreRecord(Record):
    """One store of a run."""

    store: str
    """Its path, as the configuration names it."""
    weight: float
    fingerprint: str
    """`TokenStore.fingerprint`."""
    tokenizer: str
    """sha256 of the tokenizer, hexadecimal."""
    splits: dict[SplitName, SplitRecord]
    """By use; no heldout for a run without held-out losses."""


class DataRecord(Record):
    """What a run trains on."""

    format_version: Literal[1] = 1
    tttscale_version: str | None = None
    """That wrote it; those of 0.1.0 may not say."""
    stores: list[StoreRecord]

    @classmethod
    def of(cls, tokens: Tokens) -> "DataRecord":
        """The record of the stores that are open now."""
        return cls(
            tttscale_version=__version__,
            stores=[_describe(component) for component in tokens.components],
        )


def write_data_record(folder: Path, tokens: Tokens) -> None:
    """Write data.json into a run's folder."""
    write_text(folder / RECORD_NAME, DataRecord.of(tokens).model_dump_json(indent=2) + "\n")


def check_data_record(folder: Path, tokens: Tokens) -> None:
    """Refuse to go on with other data than the run in `folder` trained on.

    A store may have moved: its content counts, not its path. Held-out splits may differ.

    Raises:
        DataError: data.json is missing or damaged, or the stores open now are not those.
    """
    path, now = folder / RECORD_NAME, DataRecord.of(tokens).stores
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
            f"{path}: the run trained on {_mixture(then)}, but the configuration asks for "
            f"{_mixture(now)}. {_remedy(then)}"
        )


def other_tokenizer(folder: Path, tokens: Tokens) -> str | None:
    """What to say where the weights in `folder` learned other ids than the stores that are open have.

    Only a record beside them, or beside the folder `final` of a run, can tell.
    """
    places = [folder, folder.parent] if folder.name == "final" else [folder]
    path = next((p for place in places if (p := place / RECORD_NAME).exists()), None)
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


def _describe(component: Component) -> StoreRecord:
    splits = component.splits.items()
    return StoreRecord(
        store=component.path,
        weight=component.weight,
        fingerprint=component.store.fingerprint,
        tokenizer=component.store.info.tokenizer.digest,
        splits={use: SplitRecord(name=s.name, tokens=s.num_tokens) for use, s in splits},
    )


def _read(path: Path) -> DataRecord:
    try:
        fields = parse_json(read_bytes(path, _RECORD_BYTES))
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}, so nobody can say what this run trained on. Give the folder "
            f"of a run that wrote it, or {path.parent / 'config.yaml'} to do without this check."
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}. {_PUT_BACK}") from None
    return DataRecord.read(fields, path, DataError, _PUT_BACK)


def _content(record: StoreRecord) -> str:
    return f"fingerprint {record.fingerprint} (tokenizer sha256 {record.tokenizer})"


def _mixture(records: list[StoreRecord]) -> str:
    """Without paths, since a store may move."""
    return ", ".join(f"split {r.splits['train'].name} with weight {r.weight}" for r in records)


def _listed(records: list[StoreRecord]) -> str:
    return ", ".join(record.store for record in records)


def _remedy(then: list[StoreRecord]) -> str:
    key = "data.store" if len(then) == 1 else "data.blend"
    return (
        f"Put the stores that it trained on back, or name where they are now with {key}=..., or "
        "start a new run under another run.name."
    )
