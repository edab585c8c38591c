"""Resuming from a checkpoint is the same as never having stopped; saving and finding on all ranks."""

from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tests.train.test_recorder import largest_file
from tttscale.comm import mesh as meshes
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import CheckpointError
from tttscale.train.checkpoint import writer as writer_module
from tttscale.train.checkpoint.manager import CheckpointManager
from tttscale.train.checkpoint.optimizer_state import MomentReader
from tttscale.train.checkpoint.snapshot import TrainingState
from tttscale.train.zero_fragments import MOMENTS, Fragment

TOKENS = Mixture((), None, None)  # type: ignore[arg-type]
STAGES = (0, 1, 2, 3)
SAVED, LAST = 2, 3


def light(sequence=1, sequences_per_step=1, **options):
    """A configuration whose steps are as short as they get: one sequence for each replica."""
    return small_config(sequence, sequences_per_step=sequences_per_step, **options)


def checkpoints_of(config, trainer, folder):
    return CheckpointManager(config, trainer._mesh, Path(folder))


def save(checkpoints, trainer, model, step):
    state = TrainingState(step, trainer.tokens, model, trainer._engine, TOKENS, "id")
    return checkpoints.save(state)


def some_steps(trainer, config, first, last):
    windows = small_windows(config)
    records = [trainer.step(step, windows) for step in range(first, last + 1)]
    return [(r["loss"], r["grad_norm"], r["tokens"]) for r in records]


def chosen(ranks, config, folder):
    mesh = meshes.start(ranks, config.parallel.sequence, torch.device("cpu"))
    return CheckpointManager(config, mesh, Path(folder)).find()


def write(ranks, config, folder):
    """Save after step SAVED and train on to LAST; records and weights."""
    trainer, model, _ = small_trainer(ranks, config)
    before = some_steps(trainer, config, 1, SAVED)
    saved = save(checkpoints_of(config, trainer, folder), trainer, model, SAVED)
    assert saved.done
    assert f"{folder}/checkpoints/step-{SAVED} (" in saved.line
    after = some_steps(trainer, config, SAVED + 1, LAST)
    return before, after, [p.detach().clone().numpy() for p in model.parameters()]


def read(ranks, config, folder, copy=None):
    """Resume after SAVED, train to LAST; records and weights. `copy`: save there at once what was loaded."""
    trainer, model, _ = small_trainer(ranks, config, chosen(ranks, config, folder))
    if copy is not None:
        save(checkpoints_of(config, trainer, copy), trainer, model, SAVED)
    after = some_steps(trainer, config, SAVED + 1, LAST)
    return after, [p.detach().clone().numpy() for p in model.parameters()]


def all_stages(ranks, folder, sequence, precision):
    for stage in STAGES:
        config = light(sequence, 2, stage=stage, precision=precision)
        where = f"{folder}/{stage}"
        _, expected, weights = write(ranks, config, where)
        found, same = read(ranks, config, where)
        assert found == expected, f"stage {stage}"
        assert all((a == b).all() for a, b in zip(weights, same, strict=True)), f"stage {stage}"


@pytest.mark.parametrize(
    ("world", "sequence", "precision"),
    [(1, 1, "fp32"), (2, 2, "bf16"), (4, 2, "fp32"), (3, 3, "fp32")],
)
def test_resuming_is_bitwise_as_if_never_stopped(tmp_path, world, sequence, precision):
    values(run_ranks(all_stages, world, str(tmp_path), sequence, precision))


def content(folder):
    """All moments and weights of a checkpoint, whole, whoever wrote which part."""
    paths = sorted(folder.glob("optimizer-*.safetensors"))
    reader = MomentReader(paths)
    model = small_trainer_model()
    moments = {}
    for name, parameter in model.named_parameters():
        room = {kind: torch.full((parameter.numel(),), torch.nan) for kind in MOMENTS}
        reader.fill(Fragment(name, 0, room))
        moments |= {(name, kind): values for kind, values in room.items()}
    return moments, (folder / "model.safetensors").read_bytes(), len(paths)


def small_trainer_model():
    from tttscale.train import build

    return build.build_model(small_config(), torch.device("cpu"))


def test_another_number_of_ranks_and_another_stage_resume(tmp_path):
    """Four ranks at stage 3 -> two at 1 -> one at 0 -> three at 2: the same numbers in each."""
    ways = [(4, 4, 3), (2, 1, 1), (1, 1, 0), (3, 3, 2)]
    folder = tmp_path / "0"
    config = light(ways[0][1], 2, stage=ways[0][2])
    _, expected, weights = values(run_ranks(write, ways[0][0], config, str(folder)))[0]
    first = content(folder / "checkpoints" / f"step-{SAVED}")
    assert first[2] == 4
    assert all(values.isfinite().all() for values in first[0].values())
    assert any(values.abs().sum() > 0 for values in first[0].values())
    for i, (world, sequence, stage) in enumerate(ways[1:], start=1):
        config, copy = light(sequence, 2, stage=stage), tmp_path / str(i)
        results = values(run_ranks(read, world, config, str(folder), str(copy)))
        found, same = results[0]
        assert found[0][0] == expected[0][0]  # a forward sweep over the same weights
        for (loss, norm, tokens), wanted in zip(found, expected, strict=True):
            assert (loss, norm) == pytest.approx(wanted[:2], rel=1e-6)
            assert tokens == wanted[2]
        for a, b in zip(same, weights, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
        again = content(copy / "checkpoints" / f"step-{SAVED}")
        assert again[1] == first[1]
        assert all(torch.equal(again[0][key], first[0][key]) for key in first[0])
        folder = copy


def nothing_but_padding(ranks, folder):
    """A checkpoint before AdamW's first step has no moments; its first step is the first one later, too."""
    config = light()
    trainer, model, _ = small_trainer(ranks, config)
    trainer._engine.skip()
    save(checkpoints_of(config, trainer, folder), trainer, model, 1)
    step = Path(folder) / "checkpoints" / "step-1"
    assert sorted(path.name for path in step.iterdir()) == [
        *("checkpoint.json", "config.json", "config.yaml", "data.json", "model.safetensors")
    ]
    expected = some_steps(trainer, config, 2, 3)
    resumed, _, _ = small_trainer(ranks, config, chosen(ranks, config, folder))
    assert some_steps(resumed, config, 2, 3) == expected


def test_before_the_optimizers_first_step(tmp_path):
    values(run_ranks(nothing_but_padding, 1, str(tmp_path)))


def damage_of_one_rank(ranks, folder):
    """Only rank 1 reads the damaged file; both skip the checkpoint, for the older one."""
    config = light(2)
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints = checkpoints_of(config, trainer, folder)
    some_steps(trainer, config, 1, 1)
    for step in (1, 2):
        save(checkpoints, trainer, model, step)
    names = sorted(checkpoints.find().manifest.files)
    trainer._mesh.gather([0.0])  # all have read it
    if ranks.rank == 0:
        path = Path(folder) / "checkpoints" / "step-2" / names[1]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    trainer._mesh.gather([0.0])
    found = checkpoints.find()
    exact = config.model_copy(
        update={"checkpoint": config.checkpoint.model_copy(update={"resume": 2})}
    )
    with pytest.raises(CheckpointError, match=f"rank 1: .*{names[1]} is damaged") as error:
        checkpoints_of(exact, trainer, folder).find()
    return [found.manifest.step, checkpoints.notices, str(error.value)]


def test_damage_that_one_rank_sees(tmp_path):
    first, second = values(run_ranks(damage_of_one_rank, 2, str(tmp_path)))
    assert first == second
    assert first[0] == 1
    assert "step-2 is skipped: rank 1: " in first[1][0]


def full_disk(ranks, folder):
    """Rank 1 finds the disk full: the run continues, until the third time in a row."""
    config = light(2, steps=9)
    every = config.checkpoint.model_copy(update={"every": 1})
    config = config.model_copy(update={"checkpoint": every})
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints, lines = checkpoints_of(config, trainer, folder), []
    some_steps(trainer, config, 1, 1)
    lines.append(save(checkpoints, trainer, model, 1))
    for step in (2, 3, 4):
        with largest_file(100 if ranks.rank == 1 and step > 2 else 1 << 30):
            lines.append(save(checkpoints, trainer, model, step))
    with (
        pytest.raises(CheckpointError, match=r"rank 0: .*third in a row") as error,
        largest_file(100),
    ):
        save(checkpoints, trainer, model, 5)
    trainer._mesh.gather([0.0])
    there = sorted(path.name for path in (Path(folder) / "checkpoints").iterdir())
    return [lines, there, str(error.value), checkpoints.find().manifest.step]


def test_a_full_disk_of_one_rank(tmp_path):
    first, second = values(run_ranks(full_disk, 2, str(tmp_path)))
    assert first[1:] == second[1:]
    lines, there, error, step = first
    assert [saved.done for saved in lines] == [True, True, False, False]
    assert lines[2].line.startswith("WARNING: ")
    assert "the checkpoint after step 3 could not be written: rank 1: " in lines[2].line
    assert there == ["step-1", "step-2"]
    assert step == 2
    assert "checkpoint.every=0" in error


def other_hosts(ranks, folder):
    """Rank 1 stands for a host that does not see rank 0's folder."""
    config = light(2)
    every = config.checkpoint.model_copy(update={"every": 1})
    config = config.model_copy(update={"checkpoint": every})
    trainer, _, _ = small_trainer(ranks, config)
    checkpoints = checkpoints_of(config, trainer, f"{folder}/{ranks.rank}")
    writer_module._APPEARS_SECONDS = 1.0
    if ranks.rank == 1:  # rank 0's path, on a disk of its own
        checkpoints._folder.root = Path(folder) / "elsewhere"
    with pytest.raises(CheckpointError, match=r"rank 1: .*all hosts share"):
        checkpoints.check_folder()


def test_a_folder_that_hosts_do_not_share(tmp_path):
    values(run_ranks(other_hosts, 2, str(tmp_path)))


def order_on_disk(ranks, folder):
    """What a power cut may take: a name is only given to what is on disk already."""
    from tttscale.train.checkpoint import folder as folder_module

    config, events = light(), []
    trainer, model, _ = small_trainer(ranks, config)
    some_steps(trainer, config, 1, 1)
    for module in (writer_module, folder_module):
        plain = module.sync
        module.sync = lambda path, plain=plain: (events.append(("sync", path)), plain(path))
    rename = Path.rename
    Path.rename = lambda a, b: (events.append(("rename", a)), rename(a, b))[1]
    save(checkpoints_of(config, trainer, folder), trainer, model, 1)
    root = Path(folder) / "checkpoints"
    partial = root / "step-1.partial"
    renamed = events.index(("rename", partial))
    synced = [path for _, path in events[:renamed]]
    names = [path.name for path in (root / "step-1").iterdir()]
    assert set(synced) == {partial, *(partial / n for n in names if n != "checkpoint.json")}
    assert synced[-1] == partial  # with the manifest in it, which `replaced` has put on disk
    assert events[renamed + 1 :] == [("sync", root)]


def test_nothing_is_named_before_it_is_on_disk(tmp_path):
    values(run_ranks(order_on_disk, 1, str(tmp_path)))


def test_keep(tmp_path):
    values(run_ranks(five_saves, 1, str(tmp_path)))


def five_saves(ranks, folder):
    config = light()
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints = checkpoints_of(config, trainer, folder)
    for step in range(1, 6):
        save(checkpoints, trainer, model, step)
    there = sorted(path.name for path in (Path(folder) / "checkpoints").iterdir())
    assert there == ["step-3", "step-4", "step-5"]


def digests(ranks, folder):
    """A save does not read its large files again, and what it notes is what it has written."""
    from tttscale.files import digest
    from tttscale.train.checkpoint import manifest

    config, again = light(2), []
    trainer, model, _ = small_trainer(ranks, config)
    some_steps(trainer, config, 1, 1)
    manifest.digest = lambda path: (again.append(path.name), digest(path))[1]
    checkpoints = checkpoints_of(config, trainer, folder)
    save(checkpoints, trainer, model, 1)
    assert not [name for name in again if name.endswith(".safetensors")]
    again.clear()
    found = checkpoints.find()
    for name, file in found.manifest.files.items():
        path = found.folder / name
        assert (path.stat().st_size, digest(path)) == (file.bytes, file.blake2b), name
    return again


def test_digests_are_made_while_writing_and_compared_when_reading(tmp_path):
    first, second = values(run_ranks(digests, 2, str(tmp_path)))
    read = sorted(first + second)
    assert "model.safetensors" in read
    assert "optimizer-00001.safetensors" in read


def flipped_on_its_way(ranks, folder):
    """What reaches the disk is not what was meant: the digest is of the latter, so that it is found."""
    config = light()
    trainer, model, _ = small_trainer(ranks, config)
    some_steps(trainer, config, 1, 1)
    checkpoints = checkpoints_of(config, trainer, folder)
    plain = Path.replace

    def harmed(path, target):
        if "model.safetensors" in path.name:
            content = bytearray(path.read_bytes())
            content[-3] ^= 16
            path.write_bytes(content)
        return plain(path, target)

    Path.replace = harmed
    save(checkpoints, trainer, model, 1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        checkpoints.find()


def test_a_digest_is_of_what_was_meant_to_be_written(tmp_path):
    values(run_ranks(flipped_on_its_way, 1, str(tmp_path)))
