"""Saves beside the steps: the same files, the same losses, the same warnings, and an end to all of them."""

import threading
import time
from concurrent.futures import wait
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.checkpoint.test_manager import (
    STAGES,
    TOKENS,
    checkpoints_of,
    light,
    read,
    save,
    some_steps,
)
from tests.train.small import small_trainer
from tests.train.test_recorder import largest_file
from tttscale.errors import NumericsError
from tttscale.train.checkpoint.background import in_background
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manager import CheckpointManager, NotSavedError
from tttscale.train.checkpoint.manifest import read_manifest
from tttscale.train.checkpoint.snapshot import HostCopy, TrainingState
from tttscale.train.checkpoint.writer import CheckpointWriter

LAST = 5


def saving(sequence=1, sequences_per_step=1, every=1, background=True, steps=9, **options):
    config = light(sequence, sequences_per_step, steps=steps, **options)
    section = config.checkpoint.model_copy(update={"every": every, "background": background})
    return config.model_copy(update={"checkpoint": section})


def state_of(trainer, model, step):
    return TrainingState(step, trainer.tokens, model, trainer._engine, TOKENS, "id")


class Gate:
    """While it is shut, no write of this process begins."""

    def __init__(self):
        self.open = threading.Event()
        plain = CheckpointWriter.write

        def write(writer, *words):
            assert self.open.wait(60)
            return plain(writer, *words)

        CheckpointWriter.write = write


def content(folder, step):
    path = Path(folder) / "checkpoints" / f"step-{step}"
    manifest = read_manifest(path)
    files = {n: (path / n).read_bytes() for n in manifest.files if n.endswith(".safetensors")}
    return files, (manifest.step, manifest.tokens, manifest.updates)


def beside_the_steps(ranks, folder, sequence, precision):
    """Steps 3 and 4 run while the checkpoint of step 2 waits to be written from its copy."""
    gate = Gate()
    for stage in STAGES:
        config = saving(sequence, 2, stage=stage, precision=precision)
        trainer, model, _ = small_trainer(ranks, config)
        losses = some_steps(trainer, config, 1, 2)
        aside, plain = f"{folder}/{stage}/aside", f"{folder}/{stage}/plain"
        gate.open.set()
        assert save(checkpoints_of(config, trainer, plain), trainer, model, 2).done
        gate.open.clear()
        checkpoints = checkpoints_of(config, trainer, aside)
        assert checkpoints.begin(state_of(trainer, model, 2)) is None
        losses += some_steps(trainer, config, 3, 4)
        assert not checkpoints.ended()
        gate.open.set()
        saved = checkpoints.settle()
        assert saved.done, saved.line
        assert "; the step waited " in saved.line
        assert checkpoints.settle() is None
        assert content(aside, 2) == content(plain, 2)
        losses += some_steps(trainer, config, 5, LAST)
        again, _, _ = small_trainer(ranks, config)
        assert some_steps(again, config, 1, LAST) == losses, f"stage {stage}"
        assert read(ranks, config, aside)[0] == losses[2:3]


@pytest.mark.parametrize(("world", "sequence", "precision"), [(1, 1, "fp32"), (2, 2, "bf16")])
def test_steps_meanwhile_change_neither_the_checkpoint_nor_the_losses(
    tmp_path, world, sequence, precision
):
    values(run_ranks(beside_the_steps, world, str(tmp_path), sequence, precision))


def one_after_the_other(ranks, folder):
    """Saves that begin as soon as the last has ended use the same memory."""
    config = saving(2)
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints, steps, places = checkpoints_of(config, trainer, folder), [], set()
    for step in range(1, 6):
        some_steps(trainer, config, step, step)
        if (saved := checkpoints.settle()) is not None:
            assert saved.done
            steps.append(saved.step)
        assert checkpoints.begin(state_of(trainer, model, step)) is None
        places.add(checkpoints._copy._buffer.data_ptr())
    assert checkpoints.settle().step == 5
    trainer._mesh.gather([0.0])  # rank 0 has removed the old ones
    there = sorted(path.name for path in (Path(folder) / "checkpoints").iterdir())
    return steps, len(places), there, checkpoints.find().manifest.step


def with_room_made(ranks, folder):
    """The memory for the first copy is there before it; also if it could not be had, or is too small."""
    config = saving(1)
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints = checkpoints_of(config, trainer, folder)
    some_steps(trainer, config, 1, 1)
    state = state_of(trainer, model, 1)
    checkpoints.make_room(state)
    checkpoints.make_room(state)
    wait([checkpoints._copy._making])
    place = checkpoints._copy._buffer.data_ptr()
    assert checkpoints.begin(state) is None
    assert checkpoints._copy._buffer.data_ptr() == place
    assert checkpoints.settle().done
    for begin_with in (torch.empty(1, dtype=torch.uint8), None):
        checkpoints._copy = HostCopy(1)
        checkpoints._copy._buffer = begin_with
        checkpoints._copy._making = in_background(lambda: 1 // 0, "fails")
        assert checkpoints.begin(state) is None
        assert len(checkpoints._copy._buffer) > 1
        assert checkpoints.settle().done
    return True


def test_room_is_made_before_the_first_save(tmp_path):
    assert values(run_ranks(with_room_made, 1, str(tmp_path))) == [True]


def test_one_save_after_the_other(tmp_path):
    for found in values(run_ranks(one_after_the_other, 2, str(tmp_path))):
        assert found == ([1, 2, 3, 4], 1, ["step-3", "step-4", "step-5"], 5)


def full_disk(ranks, folder):
    """Rank 1 finds the disk full three times in a row, with a save on request that fails in between."""
    config = saving(2, every=2)
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints, lines = checkpoints_of(config, trainer, folder), []
    some_steps(trainer, config, 1, 1)
    for step in (2, 4, 5, 6):
        full = largest_file(100) if ranks.rank == 1 and step > 2 else nullcontext()
        with full:
            assert checkpoints.begin(state_of(trainer, model, step)) is None
            lines.append(checkpoints.settle())
    with largest_file(100):
        assert checkpoints.begin(state_of(trainer, model, 8)) is None
        with pytest.raises(NotSavedError, match="third in a row") as error:
            checkpoints.settle()
    trainer._mesh.gather([0.0])
    there = sorted(path.name for path in (Path(folder) / "checkpoints").iterdir())
    return [saved.done for saved in lines], lines, there, str(error.value), error.value.exit_code


def test_three_failures_in_a_row_end_the_run_on_all_ranks(tmp_path):
    first, second = values(run_ranks(full_disk, 2, str(tmp_path)))
    assert [saved.line for saved in first[1][1:]] == [saved.line for saved in second[1][1:]]
    assert first[2:] == second[2:]
    done, lines, there, error, code = first
    assert done == [True, False, False, False]
    assert "step 4 could not be written: rank 1: " in lines[1].line
    assert "the next one is tried as planned" in lines[1].line
    assert "it is tried again after the next step" in lines[2].line
    assert there == ["step-2"]
    assert "the checkpoint after step 8 could not be written: rank 0: " in error
    assert code == 74


def alone(ranks, work, folder):
    config = saving()
    trainer, model, _ = small_trainer(ranks, config)
    some_steps(trainer, config, 1, 1)
    return work(checkpoints_of(config, trainer, folder), trainer, model, folder)


def one_rank(tmp_path, work):
    (found,) = values(run_ranks(alone, 1, work, str(tmp_path)))
    return found


def overtaken(checkpoints, trainer, model, _):
    gate, lines = Gate(), [checkpoints.overtaken(1)]
    for step in (1, 2, 3):
        gate.open.clear()
        checkpoints.begin(state_of(trainer, model, step))
        lines.append(checkpoints.overtaken(step + 1))
        gate.open.set()
        checkpoints.settle()
    return lines


def test_that_the_next_is_due_too_early_is_said_once(tmp_path):
    none, said, *others = one_rank(tmp_path, overtaken)
    assert none is None
    assert "after step 1 is still being written, and that after step 2 is due" in said
    assert "checkpoint.every" in said
    assert others == [None, None]


def left_by(error, seconds):
    """The block is left by an error while a write takes `seconds`."""

    def work(checkpoints, trainer, model, folder):
        reported = []
        plain = CheckpointWriter._write_files
        CheckpointWriter._write_files = lambda *words: (time.sleep(seconds), plain(*words))[1]

        def run():
            with checkpoints.finished(reported.append):
                checkpoints.begin(state_of(trainer, model, 1))
                raise error

        with pytest.raises(type(error)):
            run()
        assert checkpoints.settle() is None
        there = sorted(path.name for path in (Path(folder) / "checkpoints").iterdir())
        return there, [saved.done for saved in reported]

    return work


def diverged(*words):
    return left_by(NumericsError("step 2: ...", 2, 0), 4.0)(*words)


def refused(*words):
    def full(*_):
        raise OSError(28, "No space left on device")

    CheckpointFolder.commit = full
    return left_by(NumericsError("step 2: ...", 2, 0), 0.1)(*words)


def quick(*words):
    return left_by(KeyboardInterrupt(), 0.1)(*words)


def stuck(*words):
    return left_by(KeyboardInterrupt(), 50.0)(*words)


def test_a_copy_of_before_the_error_is_still_written(tmp_path):
    assert one_rank(tmp_path / "a", diverged) == (["step-1"], [True])
    assert one_rank(tmp_path / "b", quick) == (["step-1"], [True])


def test_that_it_cannot_be_written_is_said(tmp_path):
    assert one_rank(tmp_path, refused) == ([], [False])


def test_what_cannot_be_written_in_time_is_not_left_half_written(tmp_path):
    assert one_rank(tmp_path, stuck) == ([], [])


def bug(checkpoints, trainer, model, _):
    """An error that is no failure of the disk ends the run at the next look, before any other rank knows."""
    CheckpointWriter.write = lambda *_: 1 / 0
    checkpoints.begin(state_of(trainer, model, 1))
    wait([checkpoints._under_way.future], 60)
    with pytest.raises(ZeroDivisionError):
        checkpoints.ended()


def test_a_fault_of_ours_is_not_swallowed(tmp_path):
    one_rank(tmp_path, bug)


def without_memory(ranks, folder):
    """One rank of two has no room for its copy: it writes in the step, the other one beside it."""
    config = saving(2)
    trainer, model, _ = small_trainer(ranks, config)
    if ranks.rank == 1:
        HostCopy.take = lambda *_: None
    checkpoints = checkpoints_of(config, trainer, folder)
    some_steps(trainer, config, 1, 1)
    assert checkpoints.begin(state_of(trainer, model, 1)) is None
    assert checkpoints.ended() or ranks.rank == 0
    saved = checkpoints.settle()
    return saved.done, "too little memory is free" in saved.line, checkpoints.find().manifest.step


def test_a_rank_without_the_memory_for_a_copy_writes_at_once(tmp_path):
    assert values(run_ranks(without_memory, 2, str(tmp_path))) == [
        (True, False, 1),
        (True, True, 1),
    ]


def in_the_step(ranks, folder):
    config = saving(background=False)
    trainer, model, _ = small_trainer(ranks, config)
    some_steps(trainer, config, 1, 1)
    checkpoints = CheckpointManager(config, trainer._mesh, Path(folder))
    saved = checkpoints.begin(state_of(trainer, model, 1))
    assert saved.done
    assert "waited" not in saved.line
    return checkpoints._copy._buffer


def test_by_key_the_step_waits_and_nothing_is_copied(tmp_path):
    assert values(run_ranks(in_the_step, 1, str(tmp_path))) == [None]
