"""The record of the stores that a run has trained on."""

import json

import pytest

from tests.data.conftest import build
from tests.data.windows.test_mixture import config_of
from tttscale.data.provenance import check_provenance, write_provenance
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import DataError


def test_the_record_of_a_run(stores, tmp_path, corpus):
    config = config_of(stores)
    tokens = open_mixture(config)
    write_provenance(tmp_path, tokens)
    record = json.loads((tmp_path / "data.json").read_text())
    first = record["stores"][0]
    info = tokens.components[0].store.info
    assert (first["store"], first["weight"]) == (stores[0], 2)
    assert first["fingerprint"] == info.fingerprint
    assert first["splits"]["heldout"] == {
        "name": "heldout",
        "tokens": info.splits["heldout"].tokens,
    }
    check_provenance(tmp_path, tokens)
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = [str(tmp_path / "moved"), stores[1]]
    check_provenance(tmp_path, open_mixture(config_of(moved)))
    build(tmp_path / "a", corpus, holdout_fraction=0.2)
    other = open_mixture(config)
    old, new = info.fingerprint, other.components[0].store.fingerprint
    with pytest.raises(DataError, match=rf"trained on .*/a with fingerprint {old}.*/a has .*{new}"):
        check_provenance(tmp_path, other)
    with pytest.raises(
        DataError, match=r"2 store\(s\), .*/a, .*/b, but .* names 1, .*data\.blend=\.\."
    ):
        check_provenance(tmp_path, open_mixture(config_of(stores[1:])))
    with pytest.raises(DataError, match=r"split train with weight 2\.0.* has split heldout"):
        check_provenance(tmp_path, open_mixture(config_of(moved, split="heldout")))


def test_a_record_that_is_no_record(stores, tmp_path):
    tokens = open_mixture(config_of(stores))
    with pytest.raises(DataError, match=r"data\.json: No such file.*config\.yaml to do without"):
        check_provenance(tmp_path, tokens)
    for text in ("", "{", '{"stores": 3}', "\xff"):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(DataError, match=r"data\.json: damaged: "):
            check_provenance(tmp_path, tokens)
