"""A store's manifest as a few lines for people."""

from tttscale.data.store.findings import finding_text
from tttscale.data.store.manifest import BuildInfo, StoreInfo

_SHOWN_FILES = 10


def render_info(info: StoreInfo) -> str:
    """Write a few lines for people: `tttscale data info STORE`."""
    tokenizer = info.tokenizer
    on_disk = sum(file.bytes for file in info.files.values())
    lines = [f"{'split':<10}{'documents':>14}{'tokens':>20}{'text bytes':>20}{'bytes/token':>14}"]
    for name, split in info.splits.items():
        ratio = f"{split.text_bytes / split.tokens:.2f}" if split.text_bytes else "-"
        sizes = f"{split.documents:>14,}{split.tokens:>20,}{split.text_bytes:>20,}"
        lines.append(f"{name:<10}{sizes}{ratio:>14}")
    special = f"bos {tokenizer.bos_id}, eos {tokenizer.eos_id}, pad {tokenizer.pad_id}"
    digest = f"sha256 {tokenizer.digest}" if tokenizer.is_known else "which one is not known"
    lines += [
        f"tokenizer   {tokenizer.name} ({tokenizer.vocab_size:,} ids, {special})",
        f"            {digest}",
        f"on disk     {on_disk:,} bytes in {len(info.files):,} files of {tokenizer.dtype}",
        f"sources     {', '.join(info.sources)}",
        f"held out    {_held_out(info)}",
        f"fingerprint {info.fingerprint}",
    ]
    documents = sum(split.documents for split in info.splits.values())
    if documents and tokenizer.bos_id is None and tokenizer.eos_id is None:
        lines.append("separator   none: no token separates documents")
    return "\n".join(lines + _build_lines(info))


def _build_lines(info: StoreInfo) -> list[str]:
    build = info.build
    if build is None:  # of an older version, which skipped for one reason only
        only = f"skipped     {info.skipped_documents:,} documents that are not UTF-8"
        return [only] if info.skipped_documents else []
    lines = [f"{role:<12}{which}" for role, which in build.special.items()]
    lines += [f"read        {build.documents_read:,} documents"]
    lines += [f"            {count:,} files {how}" for how, count in build.formats.items()]
    lines += _id_lines(build)
    lines += [f"skipped     {n:,} documents that are {why}" for why, n in build.skipped.items()]
    lines += [f"            {example}" for example in build.skipped_examples]
    lines += [f"noticed     {finding_text(what, count)}" for what, count in build.counts.items()]
    lines += [f"ignored     the tokenizer's {what}" for what in build.ignored]
    return lines


def _id_lines(build: BuildInfo) -> list[str]:
    """The first files of ready ids, each with its digest."""
    lines = []
    for file in build.id_files[:_SHOWN_FILES]:
        said = f", it says tokenizer {file.tokenizer}" if file.tokenizer else ""
        lines.append(f"ids         {file.path}: {file.ids:,} {file.dtype}, {file.kind}{said}")
        lines += [f"            blake2b {digest} {path}" for path, digest in file.digests.items()]
    more = len(build.id_files) - _SHOWN_FILES
    return lines + [f"            and {more:,} more files of ids"] * (more > 0)


def _held_out(info: StoreInfo) -> str:
    """The share that was set and what is held out: of few documents at least one."""
    counts = {name: split.documents for name, split in info.splits.items()}
    total, held = sum(counts.values()), counts.get("heldout", 0)
    if not total:
        return "documents are not known"
    setting = f"{info.holdout_fraction:.2%} set, seed {info.seed}"
    alone = (
        ""
        if held or not info.holdout_fraction
        else ": equal documents, or a single one, are not split"
    )
    return f"{held:,} of {total:,} documents, {held / total:.2%} ({setting}){alone}"
