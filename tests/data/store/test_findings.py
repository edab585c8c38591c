"""Each count of a build has a sentence, and one of a newer version at least its name."""

import pytest

from tttscale.data.store.findings import FINDINGS, finding_text


@pytest.mark.parametrize("what", FINDINGS)
def test_a_count_is_written_once_and_with_separators(what):
    said = finding_text(what, 1234567)
    assert said.startswith("1,234,567 ")
    assert said.count("1,234,567") == 1
    assert "{" not in said


def test_a_count_that_a_newer_version_added():
    assert finding_text("half_tokens", 1000) == "half_tokens: 1,000"
