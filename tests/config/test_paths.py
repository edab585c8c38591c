"""Every key that names a place, in one way: ~ is a home, variables and control characters are refused."""

import pytest

from tttscale.config import dump_config, load_config
from tttscale.errors import ConfigError

CONFIG = "run: {name: r}\nmodel: {}\ndata: {store: s, sequence_length: 64}\ntrain: {steps: 1}\n"
KEYS = {
    "run.dir": ("run.dir={}", lambda c: c.run.dir),
    "data.store": ("data.store={}", lambda c: c.data.store),
    "data.blend": (
        "data={{blend: [{{store: {}}}], store: null, sequence_length: 64}}",
        lambda c: c.data.blend[0].store,
    ),
    "model.initial_weights": ("model.initial_weights={}", lambda c: c.model.initial_weights),
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("key", KEYS)
def test_home_is_filled_in_and_stored_so(path, tmp_path, key):
    override, found = KEYS[key]
    config = load_config(path, [override.format("'~/x y'")])
    assert found(config) == f"{tmp_path}/home/x y"
    (tmp_path / "stored.yaml").write_text(dump_config(config))
    assert "~" not in (tmp_path / "stored.yaml").read_text()
    assert load_config(tmp_path / "stored.yaml") == config


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "text",
    ["'$HOME/x'", "'${HOME}/x'", "'%HOME%/x'", "'/a/$USER/x'", '"x\\ny"', '"x\\0y"', "''", "'x '"],
)
def test_what_is_no_path_is_refused_with_its_key(path, key, text):
    override, _ = KEYS[key]
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override.format(text)])
    assert f"{key}{'[0].store' if key == 'data.blend' else ''} = " in str(caught.value)
    assert "expected a path" in str(caught.value)


def test_only_a_store_may_lie_behind_a_url(path):
    assert load_config(path, ["data.store=s3://bucket/x"]).data.store == "s3://bucket/x"
    for key in ("run.dir", "model.initial_weights"):
        with pytest.raises(
            ConfigError, match=rf"{key} = .*expected a path on this machine, not a URL"
        ):
            load_config(path, [f"{key}=s3://bucket/x"])


def test_one_place_with_two_signatures_is_one_store(path):
    parts = ", ".join(f"{{store: 'http://host/s?sig={letter * 9}'}}" for letter in "ab")
    with pytest.raises(ConfigError, match="are the same store http://host/s; name it once"):
        load_config(path, ["data.store=null", f"data.blend=[{parts}]"])


def test_a_base_in_the_home(path, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "base.yaml").write_text(CONFIG)
    path.write_text("base: ~/base.yaml\n")
    assert load_config(path).run.name == "r"
    path.write_text("base: $HOME/base.yaml\n")
    with pytest.raises(ConfigError, match="only a shell fills in variables"):
        load_config(path)
