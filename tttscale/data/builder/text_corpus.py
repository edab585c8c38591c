"""Texts as what a store is built from: files of text, JSON lines and Parquet, and a tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tttscale.data.builder.file_formats import FileFormats
from tttscale.data.builder.options import BuildOptions
from tttscale.data.builder.reports import refuse_empty, warn_about_tokenizer
from tttscale.data.builder.source_slices import SourceSlice, cut_sources
from tttscale.data.builder.sources import list_files
from tttscale.data.builder.tally import Tally
from tttscale.data.builder.tokenized import Recipe, TokenizedSlice, tokenize_slice, too_many
from tttscale.data.store.findings import FINDINGS
from tttscale.data.store.manifest import BuildInfo, TokenizerInfo
from tttscale.data.tokenizers.tokenizer import load_tokenizer
from tttscale.data.workers import Meter


class TextCorpus:
    """Texts, and the tokenizer that makes ids of them.

    Args:
        sources: files, folders and globs.
        options: what else decides the content of the store.

    Raises:
        DataError: an option does not fit, or there is no such tokenizer.
    """

    phase = "tokenize"

    def __init__(self, sources: Sequence[str], options: BuildOptions) -> None:
        self.sources = sources
        self._formats = FileFormats.parse(options.formats)
        self._taken = options.suffixes, options.exclude
        codec = options.tokenizer
        if isinstance(codec, str):
            codec = load_tokenizer(codec, options.special)
        limits = options.longest_bytes, options.skip_undecodable, options.skip_bad
        self._recipe = Recipe(codec, options.text_key, *limits)
        self.tokenizer = TokenizerInfo.of(codec)

    @property
    def definition(self) -> bytes | None:
        """The tokenizer's tokenizer.json; None if it is built in."""
        return self._recipe.codec.definition

    def announce(self) -> None:
        """Say what about the tokenizer may not be intended."""
        warn_about_tokenizer(self._recipe.codec)

    def slices(self, own: Path) -> list[SourceSlice]:
        """Find the files and cut them into slices."""
        files = list_files(self.sources, *self._taken, self._formats, own)
        return cut_sources(files, self._recipe.identity, self._formats)

    def tokenize(self, source: SourceSlice, target: TokenizedSlice, meter: Meter) -> None:
        """Tokenize one slice."""
        tokenize_slice(target, source, self._recipe, meter)

    def check(self, tally: Tally) -> None:
        """Refuse more bad documents than may be left out."""
        bad = self._recipe.bad_documents(tally)
        if bad > self._recipe.skip_bad:
            raise too_many(self._recipe, tally, f"{bad:,}", tally.bad[0])

    def refuse_empty(self, tally: Tally) -> NoReturn:
        """Refuse sources without text."""
        refuse_empty(self.sources, tally, self._recipe.codec)

    def build_info(self, slices: Sequence[SourceSlice], tally: Tally) -> BuildInfo:
        """Say how the files were read, and what was left out, changed or noticed."""
        files = dict.fromkeys(
            Path(file_range.path) for one in slices for file_range in one.file_ranges
        )
        return BuildInfo(
            documents_read=tally.documents,
            counts={what: tally.counts[what] for what in FINDINGS if tally.counts[what]},
            skipped=dict(sorted(tally.skipped.items())),
            skipped_examples=[f"{bad.place()}: {bad.detail}" for bad in tally.bad],
            formats=self._formats.used(files),
            special=dict(self._recipe.codec.special),
            ignored=list(self._recipe.codec.ignored),
        )
