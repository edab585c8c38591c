"""One checkpoint at a time: its name comes last, after what it continues, and none after a run gave up."""

import threading

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.scan.helpers import tiny_config, tiny_model
from tests.train.small import small_config
from tests.train.test_recorder import TOKENS, largest_file
from tttscale.comm import mesh as meshes
from tttscale.comm.aside import Aside
from tttscale.comm.mesh import Mesh
from tttscale.errors import CheckpointError, ConfigError, NumericsError, PeerError
from tttscale.model.pretrained import weights_of
from tttscale.scan.transport import SingleRank
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.snapshot import Snapshot
from tttscale.train.checkpoint.writer import CheckpointWriter


def snapshot(step):
    model = tiny_model(tiny_config(), torch.float32)
    moments = {"w/exp_avg/0": torch.randn(7), "w/exp_avg_sq/0": torch.rand(7)}
    return Snapshot(step, 7, 1, "id", {}, TOKENS, model.config, weights_of(model), moments)


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints")


@pytest.fixture
def writer(folder):
    return CheckpointWriter(small_config(), folder, Mesh(0, 1, 1, SingleRank()))


def left(folder):
    return sorted(path.name for path in folder.root.iterdir())


def test_it_gets_its_name_after_what_it_continues(writer, folder):
    seen = []
    done = writer.write(snapshot(4), lambda: seen.append(left(folder)))
    assert seen == [["step-4.partial"]]
    assert left(folder) == ["step-4"]
    assert done.path == folder.path(4)
    assert done.total_bytes == sum(
        path.stat().st_size for path in done.path.iterdir() if path.name != "checkpoint.json"
    )


def test_records_that_are_not_on_disk_fail_it(writer, folder):
    def refuse():
        raise ConfigError("run.dir = 'runs': cannot write to runs/a")

    with pytest.raises(CheckpointError, match="cannot write to runs/a"):
        writer.write(snapshot(4), refuse)
    assert left(folder) == []


@pytest.mark.parametrize("size", [100, 1500, 3000])
def test_a_full_disk_leaves_the_last_one_and_nothing_else(writer, folder, size):
    writer.write(snapshot(1), None)
    with largest_file(size), pytest.raises(CheckpointError, match="File too large"):
        writer.write(snapshot(2), None)
    assert left(folder) == ["step-1"]
    writer.write(snapshot(2), None)
    assert left(folder) == ["step-1", "step-2"]


def test_what_is_not_finite_is_not_written(writer, folder):
    wrong = snapshot(2)
    wrong.moments["w/exp_avg/0"][3] = torch.inf
    with pytest.raises(NumericsError, match="step 2: exp_avg of w is not finite") as error:
        writer.write(wrong, None)
    assert (error.value.step, error.value.sound) == (2, 1)
    assert not folder.root.exists()


def test_given_up_it_never_gets_its_name(writer, folder):
    """The run ends while files are being written; the thread is stopped later, or not at all."""
    writing, go_on, found = threading.Event(), threading.Event(), []

    def slow():
        writing.set()
        assert go_on.wait(60)

    def beside():
        try:
            writer.write(snapshot(3), slow)
        except CheckpointError as error:
            found.append(str(error))

    thread = threading.Thread(target=beside)
    thread.start()
    assert writing.wait(60)
    writer.give_up(3)
    assert left(folder) == []
    go_on.set()
    thread.join(60)
    assert found == ["the run ended meanwhile"]
    assert left(folder) == []


def test_a_name_that_is_being_given_is_not_taken_back(writer, folder, monkeypatch):
    committing, go_on = threading.Event(), threading.Event()
    plain = CheckpointFolder.commit

    def slow(self, manifest):
        committing.set()
        assert go_on.wait(60)
        plain(self, manifest)

    monkeypatch.setattr(CheckpointFolder, "commit", slow)
    thread = threading.Thread(target=lambda: writer.write(snapshot(3), None))
    thread.start()
    assert committing.wait(60)
    writer.give_up(3)
    go_on.set()
    thread.join(60)
    assert left(folder) == ["step-3"]


def peer_lost(ranks, path):
    """Rank 1 ends before its part is written."""
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    aside, folder = Aside(mesh, "test"), CheckpointFolder(path)
    mine = snapshot(5)
    if ranks.rank == 1:
        aside.gather_texts("")  # that all is finite
        aside.gather_texts('{"result": null}')  # that the folder is there
        return []
    with pytest.raises(PeerError):
        CheckpointWriter(small_config(), folder, aside).write(mine, None)
    return left(folder)


def test_another_ranks_end_leaves_nothing_half_written(tmp_path):
    assert values(run_ranks(peer_lost, 2, tmp_path / "checkpoints")) == [[], []]
