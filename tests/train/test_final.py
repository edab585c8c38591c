"""`final/` of a run: there as a whole or not at all."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tests.train.test_run_folder import TOKENS, resumed, settings, started, tree
from tttscale.errors import ConfigError
from tttscale.train import final
from tttscale.train.recorder import RunRecorder
from tttscale.train.run_folder import check_folder


@pytest.fixture
def model():
    return tiny_model(tiny_config(), torch.float32)


def cut(folder):
    path = folder / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


HALF = {
    "empty": lambda folder: shutil.rmtree(folder / "final") or (folder / "final").mkdir(),
    "weights alone": lambda folder: (folder / "final" / "config.json").unlink(),
    "configuration alone": lambda folder: (folder / "final" / "model.safetensors").unlink(),
    "cut": cut,
    "half a configuration": lambda folder: (folder / "final" / "config.json").write_text('{"a'),
    "a file": lambda folder: shutil.rmtree(folder / "final") or (folder / "final").write_text("x"),
    "a link to nowhere": lambda folder: (
        shutil.rmtree(folder / "final") or (folder / "final").symlink_to("nowhere")
    ),
    "old names": lambda folder: (folder / "final" / "model.safetensors").rename(
        folder / "final" / "model.safetensors.tmp-save"
    ),
}


@pytest.mark.parametrize("half", HALF)
def test_half_written_final_weights_are_replaced_by_the_same_command(tmp_path, model, half):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 100)
    final.write_final(folder, model)
    with pytest.raises(ConfigError, match="holds a run that is finished"):
        check_folder(config)
    HALF[half](folder)
    check_folder(config)
    recorder = RunRecorder(config, TOKENS, resumed(checkpoints, 100, 100))
    recorder.truncate_after(100)
    recorder.finish(model, None)
    recorder.close()
    assert final.is_whole(folder)
    aside = folder / "final-replaced-1"
    assert aside.exists() or aside.is_symlink()  # not deleted


def test_final_weights_appear_whole_or_not_at_all(tmp_path, model, monkeypatch):
    """Whatever fails while they are written, `final` is not there, or is what it was."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    for before in (False, True):
        folder = tmp_path / f"{before}"
        folder.mkdir()
        if before:
            final.write_final(folder, model)
        was = tree(folder)
        for name in ("sync",):
            with monkeypatch.context() as patch:
                patch.setattr(final, name, fail)
                with pytest.raises(OSError, match="No space"):
                    final.write_final(folder, model)
            assert tree(folder) == was
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", fail)
            with pytest.raises(OSError, match="No space"):
                final.write_final(folder, model)
        assert not (folder / "final").exists() or final.is_whole(folder)
        final.write_final(folder, model)  # what was left is cleared
        assert final.is_whole(folder)
        assert not (folder / "final.partial").exists()
