"""What a build says before its work, at its end, and where there was no text."""

import logging
from types import SimpleNamespace

import pytest

from tttscale.data.builder.documents import NOT_JSON, UNDECODABLE, BadDocument
from tttscale.data.builder.reports import refuse_empty, warn_about_tally, warn_about_tokenizer
from tttscale.data.builder.tally import Tally
from tttscale.errors import DataError


def codec(bos=None, eos=None, ignored=()):
    return SimpleNamespace(name="mine.json", bos_id=bos, eos_id=eos, ignored=ignored)


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (codec(eos=0), []),
        (codec(bos=0), []),
        (codec(), ["no bos and no eos, so no token separates documents: they run together. Name"]),
        (codec(eos=1, ignored=("truncation", "padding")), ["its truncation and padding would"]),
    ],
)
def test_what_may_not_be_intended_is_said_before_the_work(codec, said, caplog):
    warn_about_tokenizer(codec)
    assert len(caplog.messages) == len(said)
    for message, words in zip(caplog.messages, said, strict=True):
        assert message.startswith("--tokenizer mine.json: ")
        assert words in message


def test_what_was_left_out_is_said_with_its_first_place(caplog):
    tally = Tally(firsts={"empty": "a.txt"})
    build = SimpleNamespace(
        counts={"empty": 1200}, skipped={NOT_JSON: 3}, skipped_examples=["a.jsonl:2: not JSON"]
    )
    with caplog.at_level(logging.WARNING):
        warn_about_tally(tally, SimpleNamespace(build=build))
    assert caplog.messages == [
        "SOURCES: 1,200 documents hold no text and are left out; the first is a.txt.",
        "SOURCES: 3 documents that are not JSON are left out.",
        "  a.jsonl:2: not JSON",
    ]


def refused(tally):
    with pytest.raises(DataError) as caught:
        refuse_empty(["src", "b*.txt"], tally, codec())
    said = str(caught.value)
    assert said.startswith("SOURCES src b*.txt: ")
    return said


def skipped(reason, count):
    tally = Tally(documents=2)
    for at in range(count):
        tally.skip(BadDocument("a", at, "text", reason, "bad"))
    return tally


def test_sources_without_any_text():
    assert refused(Tally()).endswith(": no text in them. Name files that hold text.")


def test_all_left_out_by_one_flag_is_called_by_it():
    said = refused(skipped(UNDECODABLE, 2))
    assert "--skip-undecodable left out all 2 documents, since none is UTF-8" in said
    assert "mine.json needs. Name files that are, or use --tokenizer bytes." in said


def test_several_reasons_are_listed():
    tally = skipped(UNDECODABLE, 1)
    tally.count("empty", "a.txt")
    said = refused(tally)
    assert "(of 2 documents 1 are not UTF-8; 1 documents hold no text and are left out)" in said
