"""The text that a model is measured on: the part of a run's stores that training evaluates, or another."""

from dataclasses import dataclass
from typing import Any

from tttscale.config import Config
from tttscale.config.data_section import BlendComponent
from tttscale.data.store.open import open_store
from tttscale.data.store.protocols import Split, Store
from tttscale.data.windows.blend import Blend
from tttscale.data.windows.window import DocumentMode, TooShortError, Windows, WindowSource
from tttscale.errors import ConfigError, DataError
from tttscale.location import Location

HELDOUT = "heldout"
DEFAULT_SEQUENCES = 16
"""At most, where no number is asked for."""


@dataclass(frozen=True)
class Text:
    """Stores, and which part of them."""

    stores: tuple[tuple[str, Store, Split, float], ...]
    """For each store: how the user named it, the store, the split, and its weight."""
    documents: DocumentMode
    alignment: int
    """Positions at which a document may begin."""
    seed: int

    @property
    def tokens_per_byte(self) -> float | None:
        """Tokens for a byte of text in a single store; None if it does not say."""
        splits = [split for _, _, split, _ in self.stores]
        if len(splits) > 1 or not splits[0].text_bytes:
            return None
        return splits[0].num_tokens / splits[0].text_bytes

    def describe(self) -> list[dict[str, Any]]:
        """What eval.json says of it."""
        return [
            {"store": str(store.path), "fingerprint": store.fingerprint, "split": split.name}
            for _, store, split, _ in self.stores
        ]

    def windows(self, length_tokens: int) -> WindowSource:
        """Cut it, as training does.

        Raises:
            DataError: a split is shorter than one window.
        """
        found = [self._windows(*named[:3], length_tokens) for named in self.stores]
        if len(found) == 1:
            return found[0]
        return Blend(found, [weight for *_, weight in self.stores], self.seed)

    def _windows(self, name: str, store: Store, split: Split, length_tokens: int) -> Windows:
        try:
            return Windows(split, length_tokens, self.seed, self.alignment, self.documents)
        except TooShortError:
            raise DataError(
                f"--length {length_tokens:,}: {name}, {split.name} has {split.num_tokens:,} tokens, too few "
                "for one sequence and its last label. Give a smaller --length, another --split (such as "
                "train), or a --store of more text."
            ) from None


def open_text(
    config: Config | None,
    *,
    store: Location | None,
    split: str | None,
    vocabulary: int,
    tokenizer_digest: str | None,
    alignment: int,
) -> Text:
    """Open the stores.

    Args:
        config: the run's; None without one.
        store: to read instead of the run's.
        split: of the store; None: the one held out.
        vocabulary: token ids of the model.
        tokenizer_digest: of the tokenizer that the model was trained with; None if that is not known.
        alignment: positions at which a document may begin.

    Raises:
        ConfigError: there is neither a run nor a store.
        DataError: a store is missing or damaged, has no such split, or its ids are not the model's.
    """
    if store is None and config is None:
        raise ConfigError(
            "--store is missing: a model's folder does not say what to measure it on. Name a token store "
            "(tttscale data build STORE TEXTS), or give a run's folder."
        )
    documents: DocumentMode = "ignore" if config is None else config.data.documents
    seed = 0 if config is None else config.run.seed
    damaged = "refuse" if config is None else config.data.damaged
    if store is not None:
        named, part = [("--store", BlendComponent(store=store))], split or HELDOUT
    else:
        assert config is not None
        named = [("the run's store", component) for component in config.data.components]
        part = split or config.data.heldout_split
    opened = []
    for key, component in named:
        name = f"{key} {component.store}"
        try:
            one = open_store(component.store, damaged, vocabulary)
            _check_ids(one, vocabulary, tokenizer_digest)
            opened.append((name, one, one.split(part), component.weight))
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    return Text(tuple(opened), documents, alignment, seed)


def chosen_count(source: WindowSource, asked: int | None) -> int:
    """How many sequences to read: what was asked for, or what there is, up to a few.

    Raises:
        DataError: more were asked for than there are.
    """
    if asked is not None and asked > source.count:
        raise DataError(
            f"--sequences {asked}: there are {source.count} sequences of {source.sequence_tokens:,} tokens. "
            f"Give --sequences {source.count} or less, a smaller --length, or a --store of more text."
        )
    return asked or min(source.count, DEFAULT_SEQUENCES)


def _check_ids(store: Store, vocabulary: int, digest: str | None) -> None:
    """Refuse ids that the model does not have, or that mean other text to it."""
    its = store.info.tokenizer
    if its.vocab_size > vocabulary:
        raise DataError(
            f"its tokenizer {its.name} has {its.vocab_size:,} ids, and the model's vocabulary is "
            f"{vocabulary:,}. Build a store with the model's own tokenizer "
            "(tttscale data build --tokenizer)."
        )
    if store.names_tokenizer and digest is not None and its.digest != digest:
        raise DataError(
            f"its tokenizer is {its.name} (sha256 {its.digest:.12}...), and the model was trained with "
            f"another (sha256 {digest:.12}...): the same ids mean other text. Build a store with the "
            "model's own tokenizer (tttscale data build --tokenizer)."
        )
