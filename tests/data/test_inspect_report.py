"""What a step reads, as lines for people."""

from tttscale.data.inspect_report import escaped


def test_nothing_steers_the_terminal():
    text = "a\n\x1b[31m\u202e\u2028\x00 größer"
    assert escaped(text) == "a\\n\\x1b[31m\\u202e\\u2028\\x00 größer"
