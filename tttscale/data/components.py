"""From a configuration to the tokens of a run: its stores opened, checked and cut into windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from tttscale.config import Config
from tttscale.config.data_section import BlendPart
from tttscale.data.blend import Blend
from tttscale.data.manifest import SplitName
from tttscale.data.store import Split, TokenStore
from tttscale.data.windows import TooShortError, Windows, WindowSource
from tttscale.errors import ConfigError, DataError


@dataclass(frozen=True)
class Component:
    """One store of a run.

    Attributes:
        key: Where the configuration names it, such as data.blend[0].store.
        path: How it names it.
        weight: Its weight; 1 for a run's only store.
        store: The store.
        splits: The splits that the run uses, by their use.
        train: Windows to train on.
        heldout: Windows for held-out losses; None if the run takes none, or there are none.
        remarks: What the run should say about it.
    """

    key: str
    path: str
    weight: float
    store: TokenStore
    splits: dict[SplitName, Split]
    train: Windows
    heldout: Windows | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tokens:
    """What a run trains on and is measured by.

    Attributes:
        components: Its stores.
        train: Sequences to train on, of all of them.
        heldout: Windows for held-out losses; None if the run takes none, or there are none.
    """

    components: tuple[Component, ...]
    train: WindowSource
    heldout: WindowSource | None

    @property
    def remarks(self) -> list[str]:
        """What the run should say about its stores."""
        return [remark for component in self.components for remark in component.remarks]

    def place(self, index: int) -> tuple[Component, int]:
        """The component of the run's `index`-th sequence, and which of its own sequences it is."""
        if not isinstance(self.train, Blend):
            return self.components[0], index
        part, local = self.train.place(index)
        return self.components[part], local


def open_tokens(config: Config) -> Tokens:
    """Open the stores and check that they fit the run and each other.

    Raises:
        DataError: no such store, another vocabulary than the model's, too few tokens, or stores of
            other tokenizers.
        ConfigError: too few held-out windows.
    """
    components = tuple(
        _component(
            config, "data.store" if config.data.blend is None else f"data.blend[{i}].store", part
        )
        for i, part in enumerate(config.data.parts)
    )
    _check_one_tokenizer(components)
    train = _together(config, components, [c.train for c in components])
    measured = [c.heldout for c in components if c.heldout is not None]
    heldout = _together(config, components, measured) if measured else None
    if heldout is not None and heldout.count < config.evaluate.sequences:
        _refuse_heldout(config, components, [part.count for part in measured], heldout.count)
    return Tokens(components, train, heldout)


def _component(config: Config, key: str, part: BlendPart) -> Component:
    try:
        store = TokenStore.open(part.store, config.data.damaged, config.model.vocab_size)
    except DataError as error:
        raise DataError(f"{key} = {error}") from None
    vocabulary = store.info.tokenizer.vocab_size
    if vocabulary > config.model.vocab_size:
        raise DataError(
            f"{key} = {part.store} has token ids up to {vocabulary - 1}, but "
            f"model.vocab_size = {config.model.vocab_size}. Set model.vocab_size={vocabulary}."
        )
    splits: dict[SplitName, Split] = {}
    try:
        splits["train"] = store.split(config.data.split)
        train, heldout = _windows(config, splits["train"]), None
    except DataError as error:
        raise DataError(
            f"{key} = {part.store}, data.split = {config.data.split}: {error}"
        ) from None
    remarks = []
    if config.evaluate.sequences:
        try:
            split = store.split(config.data.heldout_split)
            heldout = _heldout_windows(config, split)
            if heldout is not None:
                splits["heldout"] = split
            else:
                remarks.append(
                    f"{part.store}: {config.data.heldout_split} holds {split.num_tokens:,} tokens, too "
                    f"few for a window of {config.data.sequence_length:,}: no held-out losses"
                )
        except DataError as error:
            raise DataError(
                f"{key} = {part.store}, data.heldout_split = {config.data.heldout_split}: {error} "
                "Or set evaluate.sequences=0 to train without held-out losses."
            ) from None
    return Component(key, part.store, part.weight, store, splits, train, heldout, tuple(remarks))


def _heldout_windows(config: Config, split: Split) -> Windows | None:
    """Windows for held-out losses; None where there is none and no number of them was asked for.

    A store of one text has nothing to hold out, and one of few texts little: that alone must not
    keep anybody from training.
    """
    asked = config.evaluate.sequences > 1
    try:
        return _windows(config, split)
    except TooShortError:
        if asked and (split.num_tokens or config.data.blend is not None):
            raise
        return None


def _windows(config: Config, split: Split) -> Windows:
    data, size = config.data, config.alignment
    return Windows(split, data.sequence_length, config.run.seed, size, data.documents)


def _together(
    config: Config, components: Sequence[Component], windows: Sequence[Windows]
) -> WindowSource:
    if config.data.blend is None:
        return windows[0]
    return Blend(windows, [component.weight for component in components], config.run.seed)


def _check_one_tokenizer(components: Sequence[Component]) -> None:
    first = components[0]
    for other in components[1:]:
        if first.store.names_tokenizer != other.store.names_tokenizer:
            _refuse_unnamed(*sorted((first, other), key=lambda c: c.store.names_tokenizer))
        ours, theirs = (c.store.info.tokenizer for c in (first, other))
        # Of plain arrays alone the user knows; their ids are held to model.vocab_size at reading.
        if first.store.names_tokenizer and ours.digest != theirs.digest:
            raise DataError(
                f"{first.key} = {first.path} and {other.key} = {other.path} were built with "
                f"different tokenizers ({ours.name}, sha256 {ours.digest:.12}..., and "
                f"{theirs.name}, sha256 {theirs.digest:.12}...), so their ids mean different text. "
                "Build both with the same --tokenizer."
            )


def _refuse_unnamed(silent: Component, named: Component) -> NoReturn:
    raise DataError(
        f"{silent.key} = {silent.path}: plain arrays do not name a tokenizer, so nobody can say "
        f"whether it is that of {named.key} = {named.path}. Blend plain arrays with plain arrays, or "
        "build a store of their text with `tttscale data build`."
    )


def _refuse_heldout(
    config: Config, components: Sequence[Component], counts: list[int], most: int
) -> NoReturn:
    asked, parts = config.evaluate.sequences, len(components)
    shares = [len(range(j, asked, parts)) for j in range(parts)]  # the components take turns
    short = next(j for j, count in enumerate(counts) if shares[j] > count)
    of_them = f" takes {shares[short]} of {components[short].key} = {components[short].path}"
    raise ConfigError(
        f"evaluate.sequences = {asked}{of_them if parts > 1 else ''}, but the held-out split has "
        f"{counts[short]} windows of {config.data.sequence_length} tokens. "
        f"Set evaluate.sequences={most} or less."
    )
