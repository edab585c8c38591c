"""Starts that do not wait for long, and a port that somebody else has."""

import socket
import threading
from contextlib import suppress

import pytest

from tttscale.comm import first_store


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(first_store, "RESOLVE_SECONDS", 0.5)
    monkeypatch.setattr(first_store, "ANSWER_SECONDS", 2.0)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.delenv("TTTSCALE_JOB_SECRET", raising=False)


@pytest.fixture
def taken():
    """A port at which somebody else listens, who answers in another language."""
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        done = threading.Event()

        def answer():
            while not done.is_set():
                with suppress(OSError):  # nobody came, or who came has left
                    other, _ = s.accept()
                    with other:
                        other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        s.settimeout(0.2)
        thread = threading.Thread(target=answer)
        thread.start()
        yield s.getsockname()[1]
        done.set()
        thread.join()
