"""No text shows a credential."""

import pytest

from tests.test_location import KEPT, REFUSED
from tttscale.errors import DataError
from tttscale.location import Location
from tttscale.scrub import remember, scrubbed, shortened

TOKEN = "Zq7PlantedTokenX9"


@pytest.mark.parametrize("text", [*KEPT, *REFUSED])
def test_texts_of_libraries_are_scrubbed(text, monkeypatch):
    """Before anything has parsed it, in every kind of error, and where it is cut short."""
    monkeypatch.setattr("tttscale.scrub._secrets", set())
    library = f"Error performing GET {text} in 3 ms\n  url: '{text}', ({text})."
    assert TOKEN not in scrubbed(library)
    assert TOKEN not in str(DataError(f"{library}: {library}"))
    for most in range(10, 120):
        assert TOKEN[:8] not in shortened([text], most)


def test_what_was_parsed_is_known_again_in_any_form():
    Location.parse(f"http://someone:p%40{TOKEN}@host/store?token=Abc{TOKEN}%2B")
    for form in (f"p@{TOKEN}", f"Abc{TOKEN}+", f"p%40{TOKEN}"):
        assert TOKEN not in scrubbed(f"invalid header {form!r}")
    basic = Location.parse(f"http://someone:p%40{TOKEN}@host/").reveal().headers["authorization"]
    assert basic.split()[1] not in scrubbed(f"header {basic}")


def test_credentials_of_the_environment_are_hidden(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"wJal/{TOKEN}")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "something long")
    text = str(DataError(f"the signature of wJal/{TOKEN} does not match something long"))
    assert text == "the signature of *** does not match something long"


def test_words_of_our_own_messages_stay_readable():
    remember("True", "null", "auto")
    assert scrubbed("Input should be True, null or auto") == "Input should be True, null or auto"


def test_short_words_stay_readable():
    remember("abc", "x")
    assert scrubbed("abc of x in 3600 steps: loss 2.5") == "abc of x in 3600 steps: loss 2.5"


@pytest.mark.parametrize("unit", ["[", "a.", "a:", "http:", "?a", "%3a", "a@", "://", "@:/"])
def test_long_texts_take_no_time_that_grows_with_their_square(unit):
    """A million letters: with a step for each pair of them this would not end."""
    assert len(shortened(unit * (1_000_000 // len(unit)))) == 60
    assert scrubbed(unit * (100_000 // len(unit)))
