"""Which products a CPU run takes: one verdict a machine, the same on all ranks, and said."""

import json

import pytest
import torch

from tests.scan.helpers import random_tokens, sweep, tiny_config
from tttscale.errors import LaunchError
from tttscale.kernels.ops import cpu_product
from tttscale.scan.chunk_runner import ChunkRunner
from tttscale.train import cpu_products
from tttscale.train.cpu_products import VARIABLE, choose

needs_onednn = pytest.mark.skipif(cpu_product.why_not() is not None, reason="no oneDNN")


class Job:
    """A mesh of ranks that all say what this one does, but for those whose oneDNN fails."""

    def __init__(self, rank=0, world=1, failing=(), wish=None):
        self.rank, self._world, self._failing, self._wish = rank, world, failing, wish

    def gather(self, values):
        rows = torch.tensor([values] * self._world, dtype=torch.float64)
        if self._wish is not None:
            rows[0, :2] = torch.tensor(self._wish, dtype=torch.float64)
        for rank in self._failing:
            rows[rank, 2] = 0
        return rows


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    cpu_product.use("torch")


def measured(monkeypatch, *seconds):
    """What successive measurements find; another one fails."""
    left = list(seconds)
    monkeypatch.setattr(cpu_products, "measure", lambda: left.pop(0))
    return left


@needs_onednn
@pytest.mark.parametrize(("seconds", "way"), [((2.0, 1.0), "onednn"), ((1.05, 1.0), "torch")])
def test_the_first_measurement_of_a_machine_stands(seconds, way, tmp_path, monkeypatch):
    left = measured(monkeypatch, seconds)
    for _ in range(3):
        assert f"{seconds[0]:.1f}x torch's speed" in choose(Job(), tmp_path / "new")
        assert cpu_product.used() == way
    assert not left
    (file,) = (tmp_path / "new").iterdir()
    kept = json.loads(file.read_text())
    assert kept["way"] == way
    assert kept["torch"] == torch.__version__


@needs_onednn
def test_another_torch_is_measured_anew_and_another_number_of_threads_is_not(tmp_path, monkeypatch):
    left = measured(monkeypatch, (2.0, 1.0), (1.0, 2.0))
    threads = torch.get_num_threads()
    choose(Job(), tmp_path)
    try:
        torch.set_num_threads(threads + 1)
        assert "by oneDNN" in choose(Job(), tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(left) == 1
    monkeypatch.setattr(torch, "__version__", "77")
    choose(Job(), tmp_path)
    assert cpu_product.used() == "torch"
    assert len(list(tmp_path.iterdir())) == 2


@needs_onednn
@pytest.mark.parametrize("way", cpu_product.WAYS)
def test_a_run_that_resumes_takes_what_it_had(way, tmp_path, monkeypatch):
    measured(monkeypatch)  # nothing is measured
    assert "as this run has taken them" in choose(Job(), tmp_path, before=way)
    assert cpu_product.used() == way
    monkeypatch.setenv(VARIABLE, "torch")
    assert f"{VARIABLE}=torch" in choose(Job(), tmp_path, before=way)
    assert cpu_product.used() == "torch"


@needs_onednn
def test_of_two_runs_that_measure_at_once_the_first_decides(tmp_path, monkeypatch):
    key, keep = cpu_products._key(), cpu_products._keep

    def too_late(path, verdict):
        keep(path, {**key, "way": "torch", "gain": 0.5})
        keep(path, verdict)

    measured(monkeypatch, (2.0, 1.0))
    monkeypatch.setattr(cpu_products, "_keep", too_late)
    assert "by torch" in choose(Job(), tmp_path)


@needs_onednn
@pytest.mark.parametrize("text", ["", "{", '{"way": "other", "gain": 1}', "[" * 9000, '{"way": 1}'])
def test_a_damaged_file_is_measured_anew_and_replaced(text, tmp_path, monkeypatch):
    measured(monkeypatch, (2.0, 1.0), (3.0, 1.0))
    choose(Job(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert "3.0x" in choose(Job(), tmp_path)
    assert "3.0x" in choose(Job(), tmp_path)


@needs_onednn
def test_without_a_place_to_keep_it_nothing_changes(tmp_path, monkeypatch):
    """Else a run could have other digits than the one that it resumes from."""
    measured(monkeypatch, (2.0, 1.0), (2.0, 1.0))
    (tmp_path / "file").write_text("")
    assert "cannot keep" in choose(Job(), tmp_path / "file")
    assert cpu_product.used() == "torch"


@needs_onednn
def test_a_link_is_not_followed(tmp_path, monkeypatch):
    measured(monkeypatch, (2.0, 1.0), (2.0, 1.0))
    choose(Job(), tmp_path)
    (file,) = tmp_path.iterdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    file.unlink()
    file.symlink_to(victim)
    assert "cannot keep" in choose(Job(), tmp_path)
    assert victim.read_text() == "mine"


@needs_onednn
def test_rank_0_decides_and_all_ranks_must_be_able_to(tmp_path, monkeypatch):
    measured(monkeypatch)  # other ranks do not measure
    assert "by oneDNN" in choose(Job(rank=1, world=2, wish=(1, 0)), tmp_path)
    assert "by torch" in choose(Job(rank=1, world=2, wish=(0, 0)), tmp_path)
    said = choose(Job(rank=1, world=3, wish=(1, 0), failing=[2]), tmp_path)
    assert "by torch" in said
    assert "fails a check on rank 2" in said
    assert cpu_product.used() == "torch"


@needs_onednn
def test_the_environment_decides(tmp_path, monkeypatch):
    measured(monkeypatch)
    for way in cpu_product.WAYS:
        monkeypatch.setenv(VARIABLE, way)
        assert f"{VARIABLE}={way}" in choose(Job(), tmp_path)
        assert cpu_product.used() == way
    monkeypatch.setenv(VARIABLE, "mkl")
    with pytest.raises(LaunchError, match=f"{VARIABLE} = 'mkl'.*auto, torch, onednn"):
        choose(Job(), tmp_path)


def test_what_cannot_be_had_is_refused_if_asked_for_and_else_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_product, "why_not", lambda: "is not in this torch")
    measured(monkeypatch)
    assert "by torch (oneDNN's product is not in this torch)" in choose(Job(), tmp_path)
    monkeypatch.setenv(VARIABLE, "onednn")
    with pytest.raises(LaunchError, match="is not in this torch"):
        choose(Job(), tmp_path)


def test_the_measurement_leaves_the_way_as_it_was():
    cpu_product.use("torch")
    threads = torch.get_num_threads()
    assert all(seconds > 0 for seconds in cpu_products.measure())
    assert (cpu_product.used(), torch.get_num_threads()) == ("torch", threads)


@needs_onednn
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_losses_are_equal_for_all_ranks_and_chunk_lengths(kind, monkeypatch):
    """With a last chunk of one token, whose products have one row."""
    cpu_product.use("onednn")
    config = tiny_config(kind, hidden_size=64, mini_batch_size=16)
    groups = [[random_tokens(97)]]
    losses = {}
    for chunk in (16, 32, 96):
        for ranks, layout in ((1, "striped"), (2, "striped"), (2, "contiguous")):
            found, keep = [], ChunkRunner._head

            def head(self, task, batch, x, *rest, keep=keep, found=found):
                with torch.no_grad():
                    found.append((batch.chunk.begin, self.model.head(x, batch.labels)[1]))
                return keep(self, task, batch, x, *rest)

            monkeypatch.setattr(ChunkRunner, "_head", head)
            sweep(config, groups, chunk=chunk, ranks=ranks, kind=layout, dtype=torch.float32)
            monkeypatch.setattr(ChunkRunner, "_head", keep)
            parts = [x[0] for _, x in sorted(found, key=lambda pair: pair[0])]
            losses[chunk, ranks, layout] = torch.cat(parts)
    first = losses[16, 1, "striped"]
    assert len(first) == 97
    assert all(torch.equal(first, other) for other in losses.values())
