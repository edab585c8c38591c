"""What a command loads: on which device, in which dtype, and whose states it takes."""

import errno

import pytest
import torch

from tests.trained import byte_model
from tttscale.errors import CheckpointError, ConfigError, DiskError
from tttscale.generate.loaded import Loaded

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    byte_model().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def load(folder, dtype="auto", told=True):
    return Loaded.load(folder, "bytes", CPU, dtype, is_told_apart=told)


def test_dtypes(folder, capsys):
    assert load(folder).model.lm_head.weight.dtype == torch.float32
    for dtype in ("float32", "bfloat16", "float16"):
        loaded = load(folder, dtype)
        assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
        loaded.announce(None)
        said = capsys.readouterr().err
        assert (
            said
            == f"model {folder}{'' if dtype == 'float32' else f' ({dtype})'}, tokenizer bytes\n"
        )
    byte_model().half().save_pretrained(folder)
    assert load(folder).model.lm_head.weight.dtype == torch.float16


def test_a_state_and_its_owner(folder, tmp_path, capsys):
    loaded = load(folder)
    state = loaded.model.generate([[1, 2, 3]], max_new_tokens=0).state
    loaded.save(tmp_path / "s", state)
    loaded.announce(state)
    said = capsys.readouterr().err
    assert f"state after 3 tokens: {tmp_path / 's'} ({state.nbytes:,} bytes)" in said
    assert ", after 3 tokens" in said
    assert loaded.state(tmp_path / "s").positions == [3]
    with pytest.raises(CheckpointError, match="another model"):
        load(folder, "bfloat16").state(tmp_path / "s")
    two = loaded.model.generate([[1], [2]], max_new_tokens=0).state
    loaded.save(tmp_path / "s", two)
    with pytest.raises(ConfigError, match="it has 2 rows"):
        loaded.state(tmp_path / "s")
    assert load(folder, told=False).owner == {}


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskError), (errno.EACCES, ConfigError)]
)
def test_a_place_that_cannot_be_written(folder, tmp_path, monkeypatch, number, kind):
    def fails(*_):
        raise OSError(number, "no")

    monkeypatch.setattr("tttscale.generate.state_file.save_state", fails)
    loaded = load(folder)
    state = loaded.model.generate([[1]], max_new_tokens=0).state
    with pytest.raises(ConfigError, match=r"--save-state .*: no\. Name a file") as error:
        loaded.save(tmp_path / "s", state)
    assert type(error.value) is kind
