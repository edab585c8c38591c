"""All tasks on one rank and on several: equal results, and mistakes that are named."""

from types import SimpleNamespace

import pytest
import torch

from tests.evaluate.helpers import Sums
from tests.trained import byte_model
from tttscale.comm.threads import ThreadWorld
from tttscale.data import BuildOptions, build_store
from tttscale.errors import ConfigError, DataError
from tttscale.evaluate.measure import Evaluation
from tttscale.evaluate.options import Options
from tttscale.evaluate.subject import Subject
from tttscale.location import Location
from tttscale.scan.transport import SingleRank

MADE = Options(lengths=(192, 320), depths=2, samples=3, chunk=32)


@pytest.fixture
def model(tmp_path):
    byte_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def store(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(8):
        (text / f"{i}.txt").write_text(f"line {i} of a text. " * 60)
    build_store(tmp_path / "store", [str(text)], BuildOptions(holdout_fraction=0.5))
    return Location.parse(str(tmp_path / "store"))


def mesh(transport, summed=lambda tensor: tensor, texts=lambda text: [text]):
    rank, size = transport.rank, transport.size
    return SimpleNamespace(
        rank=rank, world_size=size, transport=transport, sum_on_cpu=summed, gather_texts=texts
    )


def measured(model, task, options, ranks=1):
    """Results of all ranks, without what names the number of ranks."""

    def work(transport):
        subject = Subject.load(model, torch.device("cpu"), "bytes")
        place = mesh(transport, sums.of(transport.rank) if ranks > 1 else lambda t: t)
        found = Evaluation(subject, place, options).measure(task)
        assert found.pop("ranks") == ranks
        return found

    if ranks == 1:
        return [work(SingleRank())]
    sums = Sums(ranks)
    return ThreadWorld(ranks).run(work)


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
@pytest.mark.parametrize("task", ["passkey", "recall", "copy", "state-tracking"])
def test_made_tasks_are_the_same_on_any_ranks(model, task, layout):
    options = Options(**{**vars(MADE), "layout": layout, "lengths": (256, 320)})
    (alone,) = measured(model, task, options)
    for ranks in (2, 3):
        assert all(found == alone for found in measured(model, task, options, ranks))
    assert {cell["length"] for cell in alone["cells"]} == {256, 320}
    assert all(cell["samples"] == 3 for cell in alone["cells"])


def test_needle_among_needles(model):
    options = Options(lengths=(1024,), depths=3, samples=2)
    (found,) = measured(model, "needle", options)
    assert [cell["depth"] for cell in found["cells"]] == [0.0, 0.5, 1.0]
    assert found["choices"] == 8


@pytest.mark.parametrize("task", ["loss", "inner"])
def test_measures_of_text_are_the_same_on_any_ranks(model, store, task):
    options = Options(store=store, length=300, sequences=3, chunk=32)
    (alone,) = measured(model, task, options)
    assert alone["text"][0]["split"] == "heldout"
    for ranks in (2, 3):
        assert all(found == alone for found in measured(model, task, options, ranks))


def test_a_seed_decides_and_other_cells_do_not(model):
    one = Options(lengths=(256,), samples=2, chunk=32)
    (first,) = measured(model, "copy", one)
    (second,) = measured(model, "copy", Options(lengths=(256, 320), samples=2, chunk=32))
    (other,) = measured(model, "copy", Options(lengths=(256,), samples=2, chunk=32, seed=1))
    assert first["cells"][0] == second["cells"][0]
    assert first["cells"][0] != other["cells"][0]


def test_a_store_can_be_the_haystack(model, store):
    options = Options(store=store, split="train", lengths=(320,), depths=1, samples=2)
    (found,) = measured(model, "passkey", options)
    (other,) = measured(model, "passkey", Options(lengths=(320,), depths=1, samples=2))
    assert found["text"][0]["split"] == "train"
    assert found["cells"][0]["loss"] != other["cells"][0]["loss"]
    with pytest.raises(DataError, match=r"--lengths 1,048,576: .* tokens, too few to surround"):
        measured(model, "passkey", Options(store=store, lengths=(1 << 20,), samples=1))


def test_mistakes_are_named(model):
    with pytest.raises(ConfigError, match="--length is missing"):
        measured(model, "loss", Options())
    with pytest.raises(ConfigError, match=r"--lengths 255: not a multiple of 4.*256"):
        measured(model, "passkey", Options(lengths=(255,)))
    with pytest.raises(ConfigError, match="too short for recall"):
        measured(model, "recall", Options(lengths=(64,)))


def test_another_store_on_another_rank_is_refused(model, store):
    subject = Subject.load(model, torch.device("cpu"), "bytes")
    place = mesh(SingleRank(), texts=lambda text: [text, "0" * 32])
    with pytest.raises(DataError, match="the store of rank 1"):
        Evaluation(subject, place, Options(store=store, length=64)).measure("loss")


def test_bf16_is_near_fp32(model, store):
    for task, more in (("loss", {"store": store, "length": 300}), ("passkey", {"lengths": (256,)})):
        options = {"samples": 2, "depths": 1, "sequences": 2, "chunk": 32, **more}
        (wide,) = measured(model, task, Options(**options))
        (narrow,) = measured(model, task, Options(**options, precision="bf16"))
        assert narrow["precision"] == "bf16"
        pair = [
            found["loss"] if task == "loss" else found["cells"][0]["loss"]["value"]
            for found in (wide, narrow)
        ]
        assert pair[0] != pair[1]
        assert pair[1] == pytest.approx(pair[0], rel=0.02)
