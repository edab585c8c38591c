"""What `data info` says of a manifest."""

import pytest

from tttscale.data.store.describe import render_info
from tttscale.data.store.manifest import BuildInfo, FileInfo, SplitInfo, StoreInfo, TokenizerInfo


def info(train=(3, 1000, 4300), heldout=(0, 0, 0), **changes):
    tokenizer = {"name": "mine", "digest": "d" * 64, "vocab_size": 70000, "bos_id": None}
    fields = {
        "tokenizer": TokenizerInfo(**tokenizer, eos_id=7, pad_id=None),
        "splits": {
            name: SplitInfo(documents=d, tokens=t, text_bytes=b)
            for name, (d, t, b) in (("train", train), ("heldout", heldout))
        },
        "sources": ["a", "b"],
        "holdout_fraction": 0.01,
        "seed": 5,
        "skipped_documents": 2,
        "files": {
            "train/zarr.json": FileInfo(bytes=1500, blake2b=""),
            "train/tokens/c/0": FileInfo(bytes=500, blake2b=""),
        },
    }
    return StoreInfo(**{**fields, **changes})


def line(text, name):
    return next(row for row in text.splitlines() if row.startswith(name)).split(None, 1)[1]


def test_sizes_by_split():
    text = render_info(info(heldout=(1, 20, 50)))
    assert line(text, "train").split() == ["3", "1,000", "4,300", "4.30"]
    assert line(text, "heldout").split() == ["1", "20", "50", "2.50"]
    assert line(render_info(info(train=(3, 1000, 0))), "train").split() == ["3", "1,000", "-", "-"]
    assert line(text, "on disk").endswith("2,000 bytes in 2 files of uint32")
    assert "(70,000 ids, bos None, eos 7, pad None)" in text
    assert line(text, "sources") == "a, b"


@pytest.mark.parametrize(
    ("train", "heldout", "said"),
    [
        ((3, 9, 9), (1, 9, 9), "1 of 4 documents, 25.00% (1.00% set, seed 5)"),
        ((1, 9, 9), (0, 0, 0), "0 of 1 documents, 0.00% (1.00% set, seed 5): equal documents, or a s"),
        ((0, 9, 9), (0, 0, 0), "documents are not known"),
    ],
)  # fmt: skip
def test_what_is_held_out_of_few_documents(train, heldout, said):
    assert said in render_info(info(train, heldout))


def test_a_split_without_tokens_has_no_ratio():
    assert line(render_info(info()), "heldout").split() == ["0", "0", "0", "-"]


def test_documents_that_no_token_separates():
    tokenizer = info().tokenizer.model_copy(update={"eos_id": None})
    assert "separator   none: no token" in render_info(info(tokenizer=tokenizer))
    assert "separator" not in render_info(info())


def test_how_it_was_built():
    build = BuildInfo(
        documents_read=1234,
        counts={"empty": 2, "of a newer version": 1},
        skipped={"not JSON": 3},
        skipped_examples=["a.jsonl:2: bad"],
        formats={"read as jsonl": 2},
        special={"eos": "</s>, as --eos says"},
        ignored=["truncation"],
    )
    assert render_info(info(build=build)).splitlines()[-9:] == [
        "fingerprint " + info(build=build).fingerprint,
        "eos         </s>, as --eos says",
        "read        1,234 documents",
        "            2 files read as jsonl",
        "skipped     3 documents that are not JSON",
        "            a.jsonl:2: bad",
        "noticed     2 documents hold no text and are left out",
        "noticed     of a newer version: 1",
        "ignored     the tokenizer's truncation",
    ]


def test_a_store_of_an_older_version_says_what_it_knows():
    assert render_info(info()).endswith("skipped     2 documents that are not UTF-8")
    assert "skipped" not in render_info(info(skipped_documents=0))
