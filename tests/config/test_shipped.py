"""What comes with tttscale: found by name, as the paper trained, and true in every comment."""

import re
import shutil

import pytest

from tttscale.config import load_config
from tttscale.config.shipped import FOLDER, about, config_file, is_config, shipped
from tttscale.errors import ConfigError
from tttscale.plan.carries import Carries
from tttscale.plan.memory import parameters_of

SHIPPED = shipped()
RECIPES = {  # size -> steps, warm-up, peak learning rate: ttt-lm-jax, scripts/ttt_{linear,mlp}/*.sh
    "125m": (4_800, 480, 3e-3),
    "350m": (13_500, 1_350, 1.5e-3),
    "760m": (29_000, 2_900, 1.25e-3),
    "1.3b": (50_000, 5_000, 1e-3),
}
LENGTHS = {"2Ki": ("stores/pile-llama2", 256), "8Ki": ("stores/pile-llama2", 64)}
LENGTHS |= {"32Ki": ("stores/books-llama2", 16)}
PAPER = [
    f"ttt-{learner}-{size}-{length}"
    for learner in ("linear", "mlp")
    for size in RECIPES
    for length in LENGTHS
]
SOURCES = r"(paper|script|model|optimizer|data|ours)[,:; ]|(script|ours|model)$"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_name_is_enough(name, elsewhere):
    config = load_config(name, ["train.steps=70k"])
    assert (config.run.name, config.train.steps) == (name, 70_000)
    assert 20 < len(about(SHIPPED[name])) < 110


def test_names_are_unique_and_in_order():
    assert len(SHIPPED) == len(list(FOLDER.rglob("*.yaml")))
    names = list(SHIPPED)
    assert names[0] == "quickstart"
    linear = [name for name in names if name.startswith("ttt-linear-350m")]
    assert linear == [f"ttt-linear-350m-{length}" for length in ("2Ki", "8Ki", "32Ki", "1Mi")]
    assert names.index("ttt-linear-760m-1Mi") < names.index("ttt-linear-1.3b-2Ki")


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers(name):
    _, learner, size, length = name.split("-")
    steps, warmup, lr = RECIPES[size]
    store, sequences = LENGTHS[length]
    config = load_config(name)
    model, train = config.model, config.train
    assert model.preset == f"ttt-{learner}-{size}"
    assert (model.use_gate, model.share_qk, model.pre_conv, model.init) == (True, True, True, "jax")
    assert (model.vocab_size, model.mini_batch_size, model.rope_theta) == (32_000, 16, 1e4)
    assert (train.steps, train.warmup_steps, train.lr, train.lr_final) == (steps, warmup, lr, 1e-5)
    assert (train.betas, train.eps, train.weight_decay) == ((0.9, 0.95), 1e-8, 0.1)
    assert (train.grad_clip, train.lr_schedule) == (1.0, "cosine")
    assert (str(config.data.store), config.data.documents) == (store, "ignore")
    assert train.sequences_per_step == sequences
    assert sequences * config.data.sequence_length == 2**19  # "0.5M tokens"
    inner = (model.ttt_base_lr, model.inner_lr_warmup_steps, model.inner_lr_warmup_init)
    assert inner == ((0.1, warmup, 0.01) if learner == "mlp" else (1.0, 0, 0.01))


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_names_the_source_of_every_number(name):
    text = SHIPPED[name].read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        key, _, comment = line.partition("#")
        if re.search(r":\s*[^\s{]|{", key) and not key.startswith(("run:", "base:")):
            assert re.match(SOURCES, comment.strip()), line


@pytest.mark.parametrize("name", SHIPPED)
def test_numbers_in_comments_are_true(name):
    text, config = SHIPPED[name].read_text(), load_config(name)
    carries = Carries(config)
    parameters = parameters_of(carries, config)
    train, length = config.train, config.data.sequence_length
    found = 0
    for number, unit in re.findall(r"([\d,.]+)( [MB])? parameters", text):
        found += 1
        assert is_rounded(number, parameters, {"": 1, " M": 1e6, " B": 1e9}[unit])
    for steps, sequences, tokens, total in re.findall(
        r"([\d,]+) x ([\d,]+) x ([\d,]+) = ([\d.]+) B tokens", text
    ):
        found += 1
        each = (train.steps, train.sequences_per_step, length)
        assert tuple(map(whole, (steps, sequences, tokens))) == each
        assert is_rounded(total, each[0] * each[1] * each[2], 1e9)
    for steps, step, unit, total, big in re.findall(
        r"(?<!x )\b([\d,]+) x ([\d,]+)( Mi)? = ([\d.]+) ([MB]) tokens", text
    ):
        found += 1
        tokens = train.sequences_per_step * length
        assert whole(steps) == train.steps
        assert whole(step) * (2**20 if unit else 1) == tokens
        assert is_rounded(total, train.steps * tokens, {"M": 1e6, "B": 1e9}[big])
    for low, high, steps in re.findall(r"lr (\S+) to (\S+), ([\d,]+) steps of warm-up", text):
        found += 1
        assert (float(low), float(high)) == (train.lr, train.lr_final)
        assert whole(steps) == train.warmup_steps
    for chunks, size in re.findall(r"(\d+) (?:chunks )?x ([\d.]+) MB", text):
        found += 1
        assert int(chunks) == length // config.parallel.chunk_length
        assert is_rounded(size, carry_bytes(config), 1e6)
    for size in re.findall(r"12 bytes x .*?: ([\d.]+) GB each", text):
        found += 1
        assert is_rounded(size, 12 * parameters, 1e9)
    assert found >= 2


def carry_bytes(config):
    shape = config.architecture()
    return 4 * shape.num_hidden_layers * (shape.state_floats + shape.tail_floats)


def whole(text):
    return int(text.replace(",", ""))


def is_rounded(text, exact, unit):
    """Whether `text` is `exact / unit` with so many digits, the last one rounded."""
    digits = text.replace(",", "")
    places = len(digits.partition(".")[2])
    return abs(float(digits) * unit - exact) <= 0.51 * unit / 10**places


def refused(name, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    return str(caught.value)


def test_a_file_of_that_very_name_comes_first(elsewhere, write):
    text = write().read_text().replace("quick", "own")
    (elsewhere / "quickstart").write_text(text)
    assert load_config("quickstart").run.name == "own"
    assert load_config("./quickstart").run.name == "own"


def test_a_folder_of_that_name_is_no_configuration(elsewhere):
    (elsewhere / "quickstart").mkdir()
    assert load_config("quickstart").run.name == "quickstart"


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_copy_that_was_changed_makes_the_name_ambiguous(elsewhere, suffix):
    """After `tttscale configs show quickstart > quickstart.yaml`."""
    copy = elsewhere / f"quickstart{suffix}"
    shutil.copy(SHIPPED["quickstart"], copy)
    assert load_config("quickstart").train.steps == 40
    copy.write_text(copy.read_text().replace("steps: 40", "steps: 41"))
    message = refused("quickstart")
    assert f"there is a file quickstart{suffix}, which differs" in message
    assert str(SHIPPED["quickstart"]) in message
    assert load_config(copy.name).train.steps == 41
    assert load_config(SHIPPED["quickstart"]).train.steps == 40


def test_base_takes_a_name(elsewhere):
    (elsewhere / "deep").mkdir()
    for name in ("mine.yaml", "quickstart.yaml"):  # also where the file has the name itself
        (elsewhere / "deep" / name).write_text("base: quickstart\ntrain: {steps: 7}\n")
        config = load_config(f"deep/{name}")
        assert (config.train.steps, config.train.lr) == (7, 8e-3)
    assert "differs" in refused("deep/mine.yaml")


def test_copies_of_all_work_elsewhere(elsewhere):
    for name, path in SHIPPED.items():
        shutil.copy(path, elsewhere)
        assert load_config(f"{name}.yaml").run.name == name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("quikstart", "like it: quickstart"),
        ("ttt-linear-125m-2k", "ttt-linear-125m-2Ki"),
        ("nothing-like-it", "`tttscale configs` lists them"),
        ("configs/quickstart.yaml", "write its name alone, quickstart"),
        ("quickstart.yaml", "write its name alone, quickstart"),
        ("x/quickstart", "write its name alone, quickstart"),
        ("other.yaml", "Give the path of a YAML file, or a name that"),
        ("a\0b", ""),
        ("n" * 300, ""),
    ],
)
def test_what_is_not_there(elsewhere, given, said):
    assert said in refused(given)


def test_a_base_that_is_not_there(elsewhere):
    (elsewhere / "a.yaml").write_text("train: {steps: 1}\nbase: quikstart\n")
    message = refused("a.yaml")
    assert message.startswith("a.yaml:2: base: ")
    assert "like it: quickstart" in message


def test_words_of_a_command(elsewhere):
    (elsewhere / "c.yaml").touch()
    (elsewhere / "ttt-mlp").mkdir()
    words = ["tttscale", "train", "quickstart", "c.yaml", "none.yaml", "ttt-mlp", "n" * 300]
    assert [word for word in words if is_config(word)] == ["quickstart", "c.yaml"]


def test_a_path_stays_as_it_is(elsewhere, write):
    path = write()
    assert config_file(path) == path
