"""What a build says: about its tokenizer at its begin, about the sources at its end."""

import logging
from collections.abc import Sequence
from typing import NoReturn

from tttscale.data.builder.documents import UNDECODABLE
from tttscale.data.builder.tally import Tally
from tttscale.data.store.findings import finding_text
from tttscale.data.store.manifest import StoreInfo
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import DataError

_log = logging.getLogger(__name__)


def warn_about_tokenizer(codec: Tokenizer) -> None:
    """Say before the work what may not be intended."""
    if codec.bos_id is None and codec.eos_id is None:
        _log.warning(
            "--tokenizer %s: no bos and no eos, so no token separates documents: they run "
            "together. Name a token that does with --eos.",
            codec.name,
        )
    if codec.ignored:
        _log.warning(
            "--tokenizer %s: its %s would change texts and is not applied.",
            codec.name,
            " and ".join(codec.ignored),
        )


def warn_about_tally(tally: Tally, info: StoreInfo) -> None:
    """Say what was left out, changed and noticed."""
    assert info.build is not None
    for what, count in info.build.counts.items():
        _log.warning("SOURCES: %s; the first is %s.", finding_text(what, count), tally.firsts[what])
    for why, count in info.build.skipped.items():
        _log.warning("SOURCES: %s documents that are %s are left out.", f"{count:,}", why)
    for example in info.build.skipped_examples:
        _log.warning("  %s", example)


def refuse_empty(sources: Sequence[str], tally: Tally, codec: Tokenizer) -> NoReturn:
    """Refuse sources of which no token came.

    Raises:
        DataError: always.
    """
    named = f"SOURCES {' '.join(map(str, sources))}"
    undecodable = tally.skipped[UNDECODABLE]
    if undecodable and undecodable == tally.documents:
        raise DataError(
            f"{named}: --skip-undecodable left out all {undecodable:,} documents, since none is "
            f"UTF-8, which tokenizer {codec.name} needs. Name files that are, or use --tokenizer bytes."
        )
    found = [f"{count:,} are {why}" for why, count in sorted(tally.skipped.items())]
    found += [finding_text(what, count) for what, count in tally.counts.items()]
    details = f" (of {tally.documents:,} documents {'; '.join(found)})" if found else ""
    raise DataError(f"{named}: no text in them{details}. Name files that hold text.")
