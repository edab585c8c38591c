"""What a step does and reports: gradients that are no numbers, steps without tokens, waits."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.comm import mesh as meshes
from tttscale.errors import DataError, NumericsError
from tttscale.train import build

INF, NAN = float("inf"), float("nan")
BAD = {
    ("fp32", 0.0): [(0.0, INF), (0.0, 1e25), (3e38, 3e38)],
    ("fp32", 1.0): [(NAN, 0.0), (INF, -INF), (1e25, 0.0)],
    ("bf16", 0.0): [(0.0, 1e25)],
    ("bf16", 1.0): [(3e38, 3e38)],
}
"""What each of two ranks has in one gradient, by precision and train.grad_clip."""


def step_with(ranks, config, bad):
    """Two steps; in the second each rank has a value of `bad` in one gradient. Its error; what changed."""
    trainer, model, sweeps = small_trainer(ranks, config)
    trainer.step(1, small_windows(config))
    plain = sweeps.backward

    def backward():
        losses = plain()
        next(model.parameters()).grad[0, 0] = bad[ranks.rank]
        return losses

    sweeps.backward = backward

    def state():
        moments = [m for f in trainer._engine.fragments() for m in f.moments.values()]
        return [t.detach().clone() for t in [*model.parameters(), *moments]]

    before, updates = state(), trainer._engine.updates()
    try:
        trainer.step(2, small_windows(config))
    except NumericsError as error:
        same = all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
        return str(error), same and updates == trainer._engine.updates()
    return "no error", False


def all_bad_steps(ranks, precision, clip, bad):
    return [
        step_with(
            ranks,
            small_config(2, "striped", 1, stage, precision=precision, grad_clip=clip),
            one,
        )
        for stage in (0, 1, 2, 3)
        for one in bad
    ]


@pytest.mark.parametrize(("precision", "clip"), BAD)
def test_a_gradient_that_cannot_be_used_is_one_error_at_every_stage(precision, clip):
    """Not finite on one rank, finite but huge, or finite on each rank and too large as a sum."""
    bad = BAD[precision, clip]
    first, second = values(run_ranks(all_bad_steps, 2, precision, clip, bad))
    assert first == second
    for (message, untouched), one in zip(first, 4 * bad, strict=True):
        said = "the gradient is too large, though the loss is finite: its norm is above 1e+19"
        if not np.isfinite(one).all():
            said = "the gradient is not finite, though the loss is. "
        assert message.startswith(f"step 2: {said}")
        assert "model.embed_tokens.weight" in message
        assert untouched


def large_gradient(ranks):
    """The largest that is still used: clipped, it is a step of length one at most."""
    found = {}
    for stage in (0, 1, 2, 3):
        config = small_config(2, sequences_per_step=1, stage=stage, grad_clip=1.0, steps=3)
        trainer, model, sweeps = small_trainer(ranks, config)
        plain = sweeps.backward

        def backward(plain=plain, model=model):
            losses = plain()
            next(model.parameters()).grad[0, 0] = 1e20 if ranks.rank == 0 else 0.0
            return losses

        sweeps.backward = backward
        records = [trainer.step(step, small_windows(config)) for step in (1, 2)]
        moments = [m for f in trainer._engine.fragments() for m in f.moments.values()]
        finite = all(t.isfinite().all() for t in [*model.parameters(), *moments])
        found[stage] = [r["grad_norm"] for r in records], bool(finite)
    return found


def test_a_large_gradient_is_clipped_alike_at_every_stage():
    for found in values(run_ranks(large_gradient, 2)):
        for norms, finite in found.values():
            assert norms == pytest.approx([1e20 / 44] * 2, rel=1e-5)
            assert finite


def broken_update(ranks):
    """AdamW leaves a weight of one rank's share infinite."""
    config = small_config(2)
    trainer, model, _ = small_trainer(ranks, config)
    plain = trainer._engine.step

    def step(scale):
        norm = plain(scale)
        if ranks.rank == 1:
            next(model.parameters()).data[0, 0] = float("inf")
        return norm

    trainer._engine.step = step
    with pytest.raises(
        NumericsError, match=r"step 1: its update has made weights that are no"
    ) as e:
        trainer.step(1, small_windows(config))
    return str(e.value)


def test_an_update_that_breaks_weights_ends_all_ranks():
    first, second = values(run_ranks(broken_update, 2))
    assert first == second


def step_of_padding(ranks):
    config = small_config(1)
    trainer, model, _ = small_trainer(ranks, config)
    first = trainer.step(1, small_windows(config))
    before = [p.detach().clone() for p in model.parameters()]
    nothing = small_windows(config)
    sequence = nothing.sequence

    def masked(index):
        found = sequence(index)
        chunk = found.chunk

        class Masked:
            def chunk(self, begin, end):
                part = chunk(begin, end)
                return replace(part, labels=np.full_like(part.labels, -100))

        return Masked()

    nothing.sequence = masked
    empty = trainer.step(2, nothing)
    after = trainer.step(3, small_windows(config))
    same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return first, empty, after, same


def test_a_step_without_tokens_changes_nothing_and_has_no_loss():
    first, empty, after, same = values(run_ranks(step_of_padding, 1))[0]
    assert first["tokens"] == empty["tokens"] < after["tokens"] == 2 * first["tokens"]
    assert empty["loss"] != empty["loss"]
    assert empty["grad_norm"] == empty["tokens_per_second"] == 0
    assert not same  # the step after it was one


def slow_rank(ranks):
    config = small_config(2, sequences_per_step=2)
    trainer, _, sweeps = small_trainer(ranks, config)
    record = trainer.step(1, small_windows(config))
    if ranks.rank == 1:
        plain = sweeps.backward
        sweeps.backward = lambda: (plain(), time.sleep(0.6))[0]
    slow = trainer.step(2, small_windows(config))
    return record["tokens"], slow["bubble_fraction"] * slow["step_seconds"]


def test_waiting_for_the_last_rank_is_part_of_the_bubble():
    for tokens, idle_seconds in values(run_ranks(slow_rank, 2)):
        assert tokens == 2 * 44  # one window has a label for each of its positions
        assert idle_seconds > 0.25  # of two ranks one waits, at least 0.5 s


def one_rank(ranks):
    config = small_config(1)
    trainer, _, _ = small_trainer(ranks, config)
    return trainer.step(1, small_windows(config))


def test_a_single_rank_waits_for_nobody():
    assert values(run_ranks(one_rank, 1))[0]["exposed_comm_seconds"] == 0


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
