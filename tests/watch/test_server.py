"""The page's server."""

import http.client
import json
import threading
from contextlib import contextmanager

import pytest

from tests.watch.runs import make_run, record
from tttscale.errors import ConfigError
from tttscale.files import remove
from tttscale.watch.numbers import WatchedRun
from tttscale.watch.server import WatchServer, is_loopback


@contextmanager
def serving(folder, **how):
    with WatchServer(WatchedRun(folder), **how) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path="/", host="localhost", method="GET"):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


@pytest.fixture
def server(tmp_path):
    with serving(make_run(tmp_path / "runs" / "one")) as server:
        yield server


def test_page_and_data(server, tmp_path):
    assert server.url == f"http://127.0.0.1:{server.server_port}/"
    status, headers, text = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    assert "connect-src 'self'" in text
    assert str(tmp_path) not in text
    status, headers, text = ask(server, "/data.json?x=1")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(text)["series"]["step"][-1] == 20
    with (tmp_path / "runs" / "one" / "metrics.jsonl").open("a") as file:
        file.write(record(21))
    assert json.loads(ask(server, "/data.json")[2])["series"]["step"][-1] == 21
    status, headers, text = ask(server, method="HEAD")
    assert (status, text) == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/metrics.jsonl",
        "/../config.yaml",
        "//etc/passwd",
        "http://[bad",
        "/data.json/",
        "/%2e%2e/x",
    ],
)
def test_no_file_is_served(server, path):
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server, method):
    assert ask(server, method=method)[0] == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:80", 200), ("127.0.0.1:1234", 200), ("[::1]:5", 200),
     ("evil.example", 403), ("localhost.evil.example", 403), ("10.0.0.5", 403), ("", 403),
     ("[", 403), ("localhost@evil.example", 403)],
)  # fmt: skip
def test_other_names_are_refused(server, host, status):
    """A page of another site may have made its own name point to this machine."""
    assert ask(server, "/data.json", host)[0] == status


def test_bound_for_others(tmp_path):
    with serving(make_run(tmp_path / "one"), bind="0.0.0.0") as server:
        assert not server.is_local
        assert server.allows("10.0.0.5:80")
        assert not server.allows("evil.example")
    assert [is_loopback(b) for b in ("127.0.0.1", "127.3.4.5", "::1", "localhost")] == [True] * 4
    assert [is_loopback(b) for b in ("0.0.0.0", "::", "10.0.0.1", "host")] == [False] * 4


def test_addresses_that_cannot_be_had(tmp_path, server):
    run = WatchedRun(make_run(tmp_path / "two"))
    with pytest.raises(ConfigError, match=r"--port \d+: Address already in use.*free port"):
        WatchServer(run, port=server.server_port)
    with pytest.raises(ConfigError, match=r"--bind 203.0.113.7"):
        WatchServer(run, bind="203.0.113.7")


def test_a_folder_that_is_gone(server, tmp_path):
    remove(tmp_path / "runs")
    status, _, text = ask(server, "/data.json")
    assert status == 410
    assert str(tmp_path) not in text
