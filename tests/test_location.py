"""One type for a place: what it shows holds no credentials, whatever form they have."""

import copy
import pickle

import pytest

from tttscale.config.paths import path_argument, store_argument, words_argument
from tttscale.errors import ConfigError
from tttscale.location import Location, LocationError, expand
from tttscale.scrub import scrubbed

TOKEN = "Zq7PlantedTokenX9"
KEPT = {  # what is opened, though it is not shown
    f"http://user:{TOKEN}@host/store": "http://host/store",
    f"https://{TOKEN}@host:8080/store/": "https://host:8080/store",
    f"https://host/store?X-Amz-Signature={TOKEN}&X-Amz-Expires=3600": "https://host/store",
    f"https://acc.blob.core.windows.net/c/p?sv=1&sig={TOKEN}%3D": "https://acc.blob.core.windows.net/c/p",
    f"http://host/store#{TOKEN}": "http://host/store",
    f"http://user:a%40{TOKEN}%2Fb@host/store": "http://host/store",
    f"http://user:a@{TOKEN}@host/store": "http://host/store",
    f"HTTPS://user:{TOKEN}@Host/store": "https://Host/store",
    f"http://user:{TOKEN}@[::1]:80/store": "http://[::1]:80/store",
}
REFUSED = [
    f"s3://KEY:{TOKEN}@bucket/store",
    f"s3://KEY:ab/{TOKEN}+c@bucket/store",
    f"s3://bucket/store?X-Amz-Signature={TOKEN}",
    f"gs://{TOKEN}@bucket/store",
    f"az://container/store?sig={TOKEN}",
    f"abfss://c:{TOKEN}@account.dfs.core.windows.net/p",
    f"http://user:ab/{TOKEN}@host/store",
    f"http://user:ab?{TOKEN}@host/store",
    f"http://user%3A{TOKEN}%40host/store",
    f"http://host/store%3Fsig={TOKEN}",
    f"http:/user:{TOKEN}@host/store",
    f"//user:{TOKEN}@host/store",
    f"user:{TOKEN}@host/store",
    f"host/store?sig={TOKEN}",
    f"http%3A%2F%2Fuser%3A{TOKEN}%40host",
    f" http://user:{TOKEN}@host/store",
    f"http://user:{TOKEN}@host/store\n",
    f"http://user:{TOKEN}@host:99999/store",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_shown_and_what_is_opened(text):
    place = Location.parse(text)
    assert str(place) == KEPT[text]
    for shown in (repr(place), f"{place}", place + "", f"{place!r:.300}", repr([place])):
        assert TOKEN not in shown
    access = place.reveal()
    assert "#" not in access.url
    if "?" in text or "@" in text:
        assert access != (place, {})
    assert ("authorization" in access.headers) == ("@" in text)
    assert access.url.partition("?")[2] == text.partition("?")[2]
    for other in (pickle.loads(pickle.dumps(place)), copy.deepcopy(place)):
        assert other.reveal() == access  # a worker opens it, too


@pytest.mark.parametrize("text", REFUSED)
def test_what_nothing_would_read_is_refused_without_repeating_it(text):
    with pytest.raises(LocationError) as caught:
        Location.parse(text)
    assert TOKEN not in str(caught.value)
    for argument in (store_argument, path_argument, words_argument):
        with pytest.raises(ConfigError) as raised:
            argument(text)
        assert TOKEN not in str(raised.value)


def test_where_credentials_belong():
    for scheme, name in {
        "s3": "AWS_SECRET_ACCESS_KEY",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS",
        "az": "AZURE_STORAGE_SAS_TOKEN",
    }.items():
        with pytest.raises(LocationError, match=f"Give {scheme}://bucket/store, .*{name}"):
            Location.parse(f"{scheme}://u:{TOKEN}@bucket/store")


@pytest.mark.parametrize(
    "text", ["s3://bucket/a@b/c", "abfss://c@account.dfs.core.windows.net/p", "a$b/c", "/x", "x y"]
)
def test_no_credentials_where_there_are_none(text):
    assert str(Location.parse(text)) == text
    assert scrubbed(f"{text}: no such folder.") == f"{text}: no such folder."


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~") == str(tmp_path)
    assert expand("~/runs") == str(tmp_path / "runs")
    assert expand("~root/x").endswith("/x")
    assert "~" not in expand("~root/x")
    assert expand("./~") == "./~"
    assert expand("a/~") == "a/~"
    assert Location.parse("~/store") == str(tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$HOME/runs", "only a shell fills in variables"),
        ("${HOME}/runs", "only a shell fills in variables"),
        ("$", "only a shell fills in variables"),
        ("/scratch/$USER/runs", "only a shell fills in variables"),
        ("a/x-${USER}", "only a shell fills in variables"),
        ("%USERPROFILE%/runs", "only a shell fills in variables"),
        ("~no-such-user-here/runs", "no such user"),
        ("", "found an empty text"),
        (" ", "space before or after"),
        ("runs ", "space before or after"),
        ("a\nb", "control characters"),
        ("a\0b", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\u2028b", "control characters"),
    ],
)
def test_what_is_no_path(text, message):
    for parse in (expand, Location.parse):
        with pytest.raises(LocationError, match=message):
            parse(text)


def test_a_path_here_is_no_url():
    with pytest.raises(LocationError, match="not a URL"):
        expand("s3://bucket/runs")
