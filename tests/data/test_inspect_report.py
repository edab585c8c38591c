"""What a step reads, as lines for people."""

import json

from tttscale.data.inspect_report import (
    DocumentReport,
    SequenceReport,
    StepReport,
    escaped,
    render_step,
)


def test_nothing_steers_the_terminal():
    text = "a\n\x1b[31m\u202e\u2028\x00 größer"
    assert escaped(text) == "a\\n\\x1b[31m\\u202e\\u2028\\x00 größer"


def document(number, **changes):
    fields = {"position": 0, "tokens": 10, "document_tokens": 10, "goes_on": False}
    fields |= {"continues": False, "text": ""}
    return DocumentReport(number, **{**fields, **changes})


def report(step=3, data_step=3, left_out=0):
    documents = (
        document(7, goes_on=True, document_tokens=1300, text="a\tb"),
        document(1008, position=1024, continues=True),
    )
    sequence = SequenceReport(
        5, "stores/a", "train", 1, 1200, 4000, 5000, 6024, 0.125, documents, left_out
    )
    return StepReport(step, data_step, 2048, "reset", (sequence,))


def test_a_step_as_lines():
    assert render_step(report(left_out=1500)).splitlines() == [
        "step 3: 1 sequence(s) of 2,048 tokens, data.documents reset",
        "sequence 5: stores/a train, epoch 1, window 1,200 of 4,000, tokens 5,000 to 6,024, "
        "1,502 document(s), 12.5% padding",
        r"  at 0: document 7, 10 of 1,300 tokens, continued from before: a\tb",
        "  at 1,024: document 1,008, 10 of 10 tokens, continues after",
        "  and 1,500 more document(s); see --documents",
    ]


def test_a_step_whose_data_moved_up_says_so():
    assert render_step(report(data_step=9)).startswith("step 3 reads the data of step 9: 1 seq")


def test_plain_values_for_programs():
    shown = report().as_json()
    assert json.loads(json.dumps(shown)) == {**shown, "sequences": [*_lists(shown["sequences"])]}
    assert shown["sequences"][0]["documents"][0]["document_tokens"] == 1300


def _lists(sequences):
    for sequence in sequences:
        yield {**sequence, "documents": list(sequence["documents"])}
