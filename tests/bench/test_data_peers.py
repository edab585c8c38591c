"""Other trainers' readers, where they are installed."""

import numpy as np
import pytest

from tttscale.bench import data_peers


def test_a_peer_that_fails_to_import_is_named(tmp_path, monkeypatch):
    def broken(tokens, chunk_tokens, folder):
        raise RuntimeError("operator does not exist\nmore")

    monkeypatch.setattr(data_peers, "PEERS", {"Some Peer": ("json", broken)})
    found, missing = data_peers.peer_readers(np.zeros(3, np.uint16), 1, tmp_path)
    assert found == []
    assert missing == {"Some Peer": "fails: RuntimeError: operator does not exist"}


@pytest.mark.parametrize("name", data_peers.PEERS)
def test_peers_read_what_they_were_given(name, tmp_path):
    module, make = data_peers.PEERS[name]
    pytest.importorskip(module)
    tokens = np.random.default_rng(0).integers(0, 60_000, 1000).astype(np.uint16)
    reader = make(tokens, 64, tmp_path)
    for begin, end in [(0, 1000), (64, 128), (63, 65), (990, 1000)]:
        np.testing.assert_array_equal(reader.read(begin, end), tokens[begin:end])
