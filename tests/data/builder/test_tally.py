"""What was left out and noticed, counted by slice and added up in their order."""

import json

import pytest

from tttscale.data.builder.documents import NOT_JSON, TOO_LONG, BadDocument
from tttscale.data.builder.tally import MOST_EXAMPLES, Tally


def bad(at, reason=NOT_JSON):
    return BadDocument("a.jsonl", at, "jsonl", reason, f"bad at {at}")


def slice_of(*places, empty=0, origin="here"):
    tally = Tally(documents=10)
    for at in places:
        tally.skip(bad(at))
    tally.count("empty", origin, empty)
    return tally


def test_the_first_place_of_each_finding_is_kept():
    tally = Tally()
    for origin in ("first", "second"):
        tally.count("empty", origin)
    tally.count("binary", "nowhere", 0)  # none: no place
    tally.count("unknown_characters", "there", 7)
    assert tally.counts == {"empty": 2, "unknown_characters": 7}
    assert tally.firsts == {"empty": "first", "unknown_characters": "there"}


def test_only_what_has_a_sentence_is_counted():
    with pytest.raises(AssertionError, match="lost"):
        Tally().count("lost", "here")


def test_all_bad_documents_are_counted_and_the_first_are_kept():
    tally = slice_of(*range(8))
    tally.skip(bad(99, TOO_LONG))
    assert tally.skipped == {NOT_JSON: 8, TOO_LONG: 1}
    assert [one.at for one in tally.bad] == list(range(MOST_EXAMPLES))


def test_a_sum_keeps_the_order_of_the_slices():
    parts = [slice_of(), slice_of(3, empty=1, origin="b"), slice_of(*range(10, 17), empty=2)]
    total = Tally.sum(parts)
    assert (total.documents, total.skipped.total(), total.counts["empty"]) == (30, 8, 3)
    assert total.firsts["empty"] == "b"
    assert [one.at for one in total.bad] == [3, 10, 11, 12, 13]
    assert Tally.sum([]) == Tally()
    assert parts[1].skipped.total() == 1  # the parts are as they were


def test_it_survives_json():
    tally = slice_of(3, 4, empty=2)
    again = Tally.of_json(json.loads(json.dumps(tally.as_json())))
    assert again == tally
    again.skip(bad(5))  # it goes on counting
    assert again.skipped[NOT_JSON] == 3
