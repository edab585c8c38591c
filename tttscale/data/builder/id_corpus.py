"""Ready token ids as what a store is built from."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tttscale.data.builder.id_slices import IdSlice, copy_slice, cut_id_files
from tttscale.data.builder.options import ImportOptions
from tttscale.data.builder.reports import warn_about_tokenizer
from tttscale.data.builder.sources import find_files
from tttscale.data.builder.tally import Tally
from tttscale.data.builder.tokenized import TokenizedSlice
from tttscale.data.ids.find_files import open_id_files, with_endings
from tttscale.data.ids.id_file import IdFile
from tttscale.data.ids.segments import Separators
from tttscale.data.store.findings import FINDINGS, finding_text
from tttscale.data.store.manifest import UNKNOWN_TOKENIZER, BuildInfo, IdFileInfo, TokenizerInfo
from tttscale.data.tokenizers.special_tokens import NONE, ROLES, Role
from tttscale.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tttscale.data.workers import Meter
from tttscale.errors import DataError

_log = logging.getLogger(__name__)
_HINT = "Name .npy files, .bin with .idx, .ds files, folders or globs of them"


class IdCorpus:
    """Files of ready token ids, and the tokenizer that made them, or what is known of it.

    Args:
        sources: files, folders and globs; the common beginning of a `.bin` and an `.idx`.
        options: what else decides the content of the store.

    Raises:
        DataError: an option does not fit, or there is no such tokenizer.
    """

    phase = "copy"

    def __init__(self, sources: Sequence[str], options: ImportOptions) -> None:
        self.sources = sources
        self._options = options
        codec = options.tokenizer
        if isinstance(codec, str):
            codec = load_tokenizer(codec, options.special)
        self._codec: Tokenizer | None = codec
        self.tokenizer = _described(options) if codec is None else TokenizerInfo.of(codec)

    @property
    def definition(self) -> bytes | None:
        """The tokenizer's tokenizer.json; None if it is built in or unknown."""
        return None if self._codec is None else self._codec.definition

    @property
    def separators(self) -> Separators:
        """The ids that begin and end documents."""
        return Separators(self.tokenizer.bos_id, self.tokenizer.eos_id)

    def announce(self) -> None:
        """Say what about the tokenizer may not be intended."""
        if self._codec is not None:
            warn_about_tokenizer(self._codec)

    def slices(self, own: Path) -> list[IdSlice]:
        """Find the files, check their headers and indexes, and cut them into slices."""
        options = self._options
        sources = with_endings([*map(str, self.sources)])
        files = find_files(sources, options.suffixes, options.exclude, own, _HINT)
        found = open_id_files(files, self.tokenizer.vocab_size, options.dtype)
        _mention_twins([file.path for file in found])
        return cut_id_files(found, ["ids", self.tokenizer.vocab_size, *self.separators])

    def tokenize(self, source: IdSlice, target: TokenizedSlice, meter: Meter) -> None:
        """Copy the ids of one slice."""
        copy_slice(target, source, self.tokenizer.vocab_size, self.separators, meter)

    def check(self, tally: Tally) -> None:
        """Take everything: what cannot be used has ended the build before."""

    def refuse_empty(self, tally: Tally) -> NoReturn:
        """Refuse sources without ids."""
        found = "; ".join(finding_text(what, count) for what, count in tally.counts.items())
        raise DataError(
            f"SOURCES {' '.join(map(str, self.sources))}: no token in them{found and f' ({found})'}. "
            "Name files that hold token ids."
        )

    def build_info(self, slices: Sequence[IdSlice], tally: Tally) -> BuildInfo:
        """Say what each file is, with its digests, and what was noticed."""
        files = {one.file.path: one.file for part in slices for one in part.ranges}.values()
        kinds = Counter(f"{file.kind} of {file.dtype_name}" for file in files)
        return BuildInfo(
            documents_read=tally.documents,
            counts={what: tally.counts[what] for what in FINDINGS if tally.counts[what]},
            formats=dict(sorted(kinds.items())),
            special=self._special(),
            id_files=[_file_info(file, tally) for file in files],
        )

    def _special(self) -> dict[str, str]:
        if self._codec is not None:
            return dict(self._codec.special)
        ids = dict(zip(ROLES, _ids(self._options), strict=True))
        return {
            role: f"{'none' if ids[role] is None else ids[role]}, "
            f"{f'--{role}' if role in self._options.special else 'not given'}"
            for role in ROLES
        }


def _mention_twins(paths: Sequence[Path]) -> None:
    """Warn of files that are named more than once, such as a pair by its beginning and in its folder."""
    counts = Counter(path.resolve() for path in paths)
    if twins := [path for path, count in counts.items() if count > 1]:
        _log.warning(
            "SOURCES: %d files are named more than once, and their documents are stored as often; the first "
            "is %s. Name each once if that is not intended.",
            len(twins),
            twins[0],
        )


def _file_info(file: IdFile, tally: Tally) -> IdFileInfo:
    paths = [str(path) for path in (file.path, *file.beside)]
    return IdFileInfo(
        path=str(file.path),
        kind=file.kind,
        dtype=file.dtype_name,
        ids=file.ids.count,
        tokenizer=file.tokenizer,
        digests={path: tally.digests[path] for path in paths},
    )


def _described(options: ImportOptions) -> TokenizerInfo:
    """Describe a tokenizer of which the vocabulary's size is known, and perhaps some ids."""
    assert options.vocab_size is not None
    bos, eos, pad = _ids(options)
    for role, found in zip(ROLES, (bos, eos, pad), strict=True):
        if found is not None and found >= options.vocab_size:
            raise DataError(f"--{role} {found}: not below --vocab-size {options.vocab_size}.")
    if bos is not None and bos == eos:
        bos = None  # one token that is both ends a document and begins the next
    return TokenizerInfo(
        name="unknown",
        digest=UNKNOWN_TOKENIZER,
        vocab_size=options.vocab_size,
        bos_id=bos,
        eos_id=eos,
        pad_id=pad,
    )


def _ids(options: ImportOptions) -> list[int | None]:
    return [_id(role, options.special) for role in ROLES]


def _id(role: Role, special: Mapping[Role, str]) -> int | None:
    word = special.get(role, NONE)
    if word == NONE:
        return None
    if not word.isascii() or not word.isdigit() or len(word) > 10:
        raise DataError(
            f"--{role} {word}: with --vocab-size give the id, such as 2; names of tokens need --tokenizer."
        )
    return int(word)
