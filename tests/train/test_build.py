"""From a configuration to the parts of a run, and what all ranks must have in common."""

from types import SimpleNamespace

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.comm import mesh as meshes
from tttscale.errors import DataError
from tttscale.supervise.deadline import Rules
from tttscale.supervise.page import Page
from tttscale.train import build


class OneRankDiffers(SimpleNamespace):
    """A mesh of three ranks, the last of which opened another second store."""

    def gather(self, values):
        rows = torch.tensor([values] * 3, dtype=torch.float64)
        rows[2, 1] += self.difference
        return rows


def test_a_rank_with_another_store_is_named():
    mine = "89ab" * 8
    stores = [SimpleNamespace(fingerprint=digits) for digits in ("4567" * 8, mine)]
    tokens = SimpleNamespace(
        components=[
            SimpleNamespace(key=f"data.blend[{i}].store", path=f"here/{i}", store=store)
            for i, store in enumerate(stores)
        ]
    )
    build.check_same_stores(OneRankDiffers(difference=0), tokens)
    with pytest.raises(DataError) as caught:
        build.check_same_stores(OneRankDiffers(difference=1), tokens)
    assert "data.blend[1].store = here/1: the store of rank 2 " in str(caught.value)
    assert f"differs from rank 0's ({mine[:12]}...)" in str(caught.value)


def test_ranks_agree_on_all_keys_but_those_of_a_host(monkeypatch):
    found = {}
    monkeypatch.setattr(meshes, "start", lambda *_, agreed, transport: found.update(agreed))
    place = meshes.Ranks(0, 2, 0, 2, "127.0.0.1", 1, "environment")
    config = small_config(2)
    parts = [{"store": "here/a", "weight": 3}, {"store": "here/b"}]
    config = type(config).model_validate(
        config.model_dump() | {"data": {"blend": parts, "sequence_length": 44}}
    )
    build.connect(config, place, torch.device("cpu"))
    assert found["run.seed"] == "0"
    assert found["train.lr"] == "0.01"
    assert float(found["data.blend[0].weight"]) == 3
    assert found["train.betas"] == "[0.9, 0.95]"
    own = ("run.name", "run.dir", "logging.every", "data.blend[0].store", "parallel.threads")
    assert not set(own) & set(found)


def other_stores(ranks, fingerprints):
    mesh = meshes.start(ranks, 2, torch.device("cpu"))
    store = SimpleNamespace(fingerprint=fingerprints[ranks.rank])
    tokens = SimpleNamespace(
        components=[SimpleNamespace(key="data.store", path="here", store=store)]
    )
    try:
        build.check_same_stores(mesh, tokens)
    except DataError as error:
        return str(error)
    return "no error"


def test_ranks_that_see_other_stores_end_on_every_rank():
    one, two = "0123456789abcdef" * 2, "1123456789abcdef" * 2
    assert values(run_ranks(other_stores, 2, [one, one])) == ["no error", "no error"]
    for said in values(run_ranks(other_stores, 2, [one, two])):
        assert "data.store = here: the store of rank 1 " in said


@pytest.mark.parametrize(
    ("mine", "all_cores", "ranks", "asked", "expected"),
    [
        (8, 8, 1, None, 8),
        (8, 8, 4, None, 2),
        (8, 64, 8, None, 8),  # the launcher gave each rank cores of its own
        (2, 2, 3, None, 1),
        (8, 64, 8, 3, 3),
    ],
)
def test_threads_of_a_rank(monkeypatch, mine, all_cores, ranks, asked, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(mine)))
    monkeypatch.setattr("os.cpu_count", lambda: all_cores)
    found = []
    monkeypatch.setattr("torch.set_num_threads", found.append)
    config = small_config(1)
    parallel = config.parallel.model_copy(update={"threads": asked})
    config = config.model_copy(update={"parallel": parallel})
    place = meshes.Ranks(0, ranks, 0, ranks, "127.0.0.1", 1, "environment")
    build.set_threads(config, place)
    assert found == [expected]


def on_a_host_with_a_gpu(ranks):
    """A step on the CPU where torch would tell of a GPU; nobody may touch it."""

    def forbidden(name):
        def touched(*_, **__):
            raise AssertionError(f"torch.cuda.{name} was called")

        return touched

    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
    for name in ("set_device", "synchronize", "mem_get_info", "max_memory_allocated", "Event"):
        setattr(torch.cuda, name, forbidden(name))
    config = small_config(ranks.world_size, stage=1, device="cpu")
    device = build.choose_device(config, ranks)
    build.keep_policy(config, ranks, device).measured(range(1), 1 << 20, 1)
    trainer, _, _ = small_trainer(ranks, config)
    record = trainer.step(1, small_windows(config))
    from deepspeed.accelerator import get_accelerator

    return device.type, get_accelerator().device_name(), record["peak_memory_bytes"]


@pytest.mark.skipif(
    torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="torch for CUDA on a host without its driver: no GPU can be simulated",
)
def test_a_run_on_the_cpu_leaves_a_gpu_of_the_host_alone(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")  # of whatever this process was told before
    for device, accelerator, peak_bytes in values(run_ranks(on_a_host_with_a_gpu, 2)):
        assert (device, accelerator) == ("cpu", "cpu")
        assert peak_bytes > 1 << 20


@pytest.mark.parametrize(("asked", "seconds"), [("auto", 60.0), (0, 0.0), (2.5, 2.5), (900, 900.0)])
def test_what_the_supervisor_must_know(asked, seconds):
    config = small_config(4, "contiguous", 1, 1, hang_seconds=asked)
    assert build.hang_rules(config) == Rules(seconds, 4, "contiguous")


def test_the_supervisor_is_told_before_ranks_meet(monkeypatch):
    monkeypatch.setattr(Page, "own", Page())
    told = []
    monkeypatch.setattr(meshes, "start", lambda *_, **__: told.append(Page.own.text("watch")))
    config = small_config(1, "striped", 1, 1, hang_seconds=7)
    build.connect(config, SimpleNamespace(rank=0), torch.device("cpu"))
    assert told == [Rules(7.0, 1, "striped").text()]
