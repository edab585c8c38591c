"""What is counted while a store is built, and the sentence for each count."""

FINDINGS = {
    "empty": "{} documents hold no text and are left out",
    "tokenless": "{} documents hold text of which the tokenizer makes no token, and are left out",
    "uncovered_characters": (
        "{} characters of text are lost: the tokenizer has no token for them, nor for their bytes. Use "
        "one with byte fallback or byte-level BPE, such as `tttscale data tokenizer` trains"
    ),
    "uncovered_spaces": "{} characters of white space are lost, which the tokenizer takes for separators",
    "unknown_characters": "{} characters became the tokenizer's token for what it does not know",
    "normalized": "{} documents were changed by the tokenizer's normalizer",
    "binary": (
        "{} documents hold NUL bytes, as images and archives do and text does not; they are in the "
        "store: if that is not intended, leave them out with --suffix or --exclude"
    ),
    "json_like": (
        "{} files were read as text, but look like JSON lines: each is one document of raw JSON. If "
        "that is not intended, say --format jsonl"
    ),
    "no_tokens": "{} documents of ready ids have no token and are left out",
    "not_ended": "{} documents of ready ids do not end with eos; they are in the store as they are",
    "unseparated": (
        "{} files of ready ids hold neither bos nor eos, so each is one document. If that is not intended, "
        "name the tokens that separate documents with --bos and --eos"
    ),
    "masked": (
        "{} files of ready ids come with a mask of tokens without a loss, which is not read: all their "
        "tokens have one"
    ),
    "unchecked": (
        "{} .zst files were compressed without a checksum: damage in them would not be noticed"
    ),
}
"""By their names in the manifest."""


def finding_text(what: str, count: int) -> str:
    """Write a sentence about `count` of `what`; only its name if a newer version added it."""
    return FINDINGS.get(what, f"{what}: {{}}").format(f"{count:,}")
