"""The data of a run: its stores opened, checked and cut into windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from tttscale.config import Config
from tttscale.config.data_section import BlendComponent
from tttscale.data.store.manifest import SplitName
from tttscale.data.store.open import open_store
from tttscale.data.store.protocols import Split, Store
from tttscale.data.windows.blend import Blend
from tttscale.data.windows.window import TooShortError, Windows, WindowSource
from tttscale.errors import ConfigError, DataError


@dataclass(frozen=True)
class MixtureComponent:
    """One store of a run."""

    key: str
    """Its key in the configuration, such as data.blend[0].store."""
    path: str
    """Its path there."""
    weight: float
    """Its weight; 1 for a run's only store."""
    store: Store
    """The store."""
    splits: dict[SplitName, Split]
    """The splits that the run uses, by what it uses them for."""
    train: Windows
    """Windows to train on."""
    heldout: Windows | None
    """Windows for held-out losses; None if the run evaluates none, or there are none."""
    notices: tuple[str, ...] = ()
    """What the run reports about it at its begin."""


@dataclass(frozen=True)
class Mixture:
    """What a run trains on and is evaluated on: one store, or a blend of several."""

    components: tuple[MixtureComponent, ...]
    """Its stores."""
    train: WindowSource
    """Sequences to train on, from all stores."""
    heldout: WindowSource | None
    """Windows for held-out losses; None if the run evaluates none, or there are none."""

    @property
    def notices(self) -> list[str]:
        """What the run reports about its stores at its begin."""
        return [notice for component in self.components for notice in component.notices]

    def locate(self, index: int) -> tuple[MixtureComponent, int]:
        """The component of the run's `index`-th sequence, and which of its own sequences it is."""
        if not isinstance(self.train, Blend):
            return self.components[0], index
        component, local = self.train.locate(index)
        return self.components[component], local


def open_mixture(config: Config) -> Mixture:
    """Open the stores and check that they fit the run and each other.

    Raises:
        DataError: a store is missing, its vocabulary is larger than the model's, it has too few tokens,
            or the stores have different tokenizers.
        ConfigError: too few held-out windows.
    """
    components = tuple(
        _open_component(
            config, "data.store" if config.data.blend is None else f"data.blend[{i}].store", named
        )
        for i, named in enumerate(config.data.components)
    )
    _check_one_tokenizer(components)
    train = _combined(config, components, [c.train for c in components])
    measured = [c.heldout for c in components if c.heldout is not None]
    heldout = _combined(config, components, measured) if measured else None
    if heldout is not None and heldout.count < config.evaluate.sequences:
        _refuse_heldout(config, components, [windows.count for windows in measured], heldout.count)
    return Mixture(components, train, heldout)


def _open_component(config: Config, key: str, named: BlendComponent) -> MixtureComponent:
    try:
        store = open_store(named.store, config.data.damaged, config.model.vocab_size)
    except DataError as error:
        raise DataError(f"{key} = {error}") from None
    vocabulary = store.info.tokenizer.vocab_size
    if vocabulary > config.model.vocab_size:
        raise DataError(
            f"{key} = {named.store} has token ids up to {vocabulary - 1}, but "
            f"model.vocab_size = {config.model.vocab_size}. Set model.vocab_size={vocabulary}."
        )
    splits: dict[SplitName, Split] = {}
    try:
        splits["train"] = store.split(config.data.split)
        train, heldout = _windows(config, splits["train"]), None
    except DataError as error:
        raise DataError(
            f"{key} = {named.store}, data.split = {config.data.split}: {error}"
        ) from None
    notices = []
    if config.evaluate.sequences:
        try:
            split = store.split(config.data.heldout_split)
            heldout = _heldout_windows(config, split)
            if heldout is not None:
                splits["heldout"] = split
            else:
                notices.append(
                    f"{named.store}: {config.data.heldout_split} holds {split.num_tokens:,} tokens, too "
                    f"few for a window of {config.data.sequence_length:,}: no held-out losses"
                )
        except DataError as error:
            raise DataError(
                f"{key} = {named.store}, data.heldout_split = {config.data.heldout_split}: {error} "
                "Or set evaluate.sequences=0 to train without held-out losses."
            ) from None
    return MixtureComponent(
        key, named.store, named.weight, store, splits, train, heldout, tuple(notices)
    )


def _heldout_windows(config: Config, split: Split) -> Windows | None:
    """Windows for held-out losses; None where there are none and the configuration sets no number.

    A store of one text can hold none out, and one of few texts little: that alone must not prevent
    training.
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


def _combined(
    config: Config, components: Sequence[MixtureComponent], windows: Sequence[Windows]
) -> WindowSource:
    if config.data.blend is None:
        return windows[0]
    return Blend(windows, [component.weight for component in components], config.run.seed)


def _check_one_tokenizer(components: Sequence[MixtureComponent]) -> None:
    first = components[0]
    for other in components[1:]:
        if first.store.names_tokenizer != other.store.names_tokenizer:
            _refuse_unnamed(*sorted((first, other), key=lambda c: c.store.names_tokenizer))
        ours, theirs = (c.store.info.tokenizer for c in (first, other))
        # Only the user knows the tokenizer of such stores; their ids are checked when they are read.
        if first.store.names_tokenizer and ours.digest != theirs.digest:
            raise DataError(
                f"{first.key} = {first.path} and {other.key} = {other.path} were built with "
                f"different tokenizers ({ours.name}, sha256 {ours.digest:.12}..., and "
                f"{theirs.name}, sha256 {theirs.digest:.12}...), so their ids mean different text. "
                "Build both with the same --tokenizer."
            )


def _refuse_unnamed(silent: MixtureComponent, named: MixtureComponent) -> NoReturn:
    raise DataError(
        f"{silent.key} = {silent.path}: plain arrays, and ids imported without their tokenizer, do not name "
        f"one, so it is unknown whether it is that of {named.key} = {named.path}. Blend such stores with "
        "each other, or build one of the text with `tttscale data build`."
    )


def _refuse_heldout(
    config: Config, components: Sequence[MixtureComponent], counts: list[int], most: int
) -> NoReturn:
    asked, count = config.evaluate.sequences, len(components)
    shares = [len(range(j, asked, count)) for j in range(count)]  # the components take turns
    short = next(j for j, has in enumerate(counts) if shares[j] > has)
    share = f" takes {shares[short]} of {components[short].key} = {components[short].path}"
    raise ConfigError(
        f"evaluate.sequences = {asked}{share if count > 1 else ''}, but the held-out split has "
        f"{counts[short]} windows of {config.data.sequence_length} tokens. "
        f"Set evaluate.sequences={most} or less."
    )
