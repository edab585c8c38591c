import sys
from pathlib import Path

import pytest

from tests.config.conftest import RUN
from tests.hostile import no_files
from tttscale.config import Config, dump_config, load_config
from tttscale.errors import ConfigError
from tttscale.model.architecture import TTTConfig, preset_fields


def refused(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_small_file_is_enough(write):
    config = load_config(write())
    assert config.train.lr == 1e-4
    assert config.data.sequence_length == 65536
    assert config.parallel.chunk_length == 8192
    assert config.logging.wandb.mode is None  # as the environment says, else offline


def test_yaml_numbers_mean_what_they_say(write):
    config = load_config(write(), ["train.lr=1e-3", "train.steps=010", "run.seed=1_000"])
    assert (config.train.lr, config.train.steps, config.run.seed) == (1e-3, 10, 1000)


def test_architecture_is_the_preset_with_the_fields_beside_it(write):
    config = load_config(write(), ["model.vocab_size=1Ki", "model.pad_token_id=0"])
    expected = {**preset_fields("ttt-linear-125m"), "vocab_size": 1024, "pad_token_id": 0}
    assert config.architecture() == TTTConfig(**expected)
    assert type(config.architecture()) is TTTConfig


def test_architecture_without_preset_has_the_official_defaults(write):
    config = load_config(write(), ["model={preset: null, num_hidden_layers: 2}"])
    assert config.architecture() == TTTConfig.model_validate({"num_hidden_layers": 2})


@pytest.mark.parametrize("name", ["1e-4", "1Mi", "true", "null", "010", "1_0", "2024-01-01", "off"])
def test_dump_reads_back_equal(write, name):
    config = load_config(write(), [f"run.name='{name}'", "parallel.threads=2", "train.eps=1e-9"])
    assert load_config(write(dump_config(config), "again.yaml")) == config


def test_base_is_relative_to_the_file_and_merges_deeply(write):
    write(name="shared/common.yaml")
    write("base: common.yaml\ntrain: {lr: 2e-4}\n", "shared/middle.yaml")
    path = write("base: shared/middle.yaml\ntrain: {steps: 3}\nparallel:\n")
    config = load_config(path)
    assert (config.train.lr, config.train.steps, config.run.name) == (2e-4, 3, "quick")


def test_a_circle_of_bases_is_refused(write):
    write("base: run.yaml\n", "other.yaml")
    assert "leads back to itself" in refused(write("base: other.yaml\n"))


@pytest.mark.parametrize("base", ["missing.yaml", "[a, b]", "3"])
def test_a_wrong_base_is_refused_with_its_line(write, base):
    assert "run.yaml:2: base" in refused(write(f"run: {{name: a}}\nbase: {base}\n"))


def test_duplicate_keys_are_refused_with_both_lines(write):
    message = refused(write("train:\n  lr: 1\n  lr: 2\n"))
    assert "run.yaml:3: train.lr is written twice (first at " in message
    assert "run.yaml:2)" in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.lrr", "train.lr"),
        ("lr", "train.lr"),
        ("train.sequence_length", "data.sequence_length"),
        ("parallel.chunk_lenght", "parallel.chunk_length"),
        ("optimizer.weight_decay", None),
        ("model.hiden_size", "model.hidden_size"),
        ("loging.every", "logging"),
        ("trian.steps", "train"),
    ],
)
def test_unknown_keys_name_the_nearest(write, key, nearest):
    message = refused(write(), f"{key}=1")
    assert f"override '{key}=1': {key.split('.')[0]}" in message
    assert "is not a known key" in message
    assert nearest is None or f"did you mean {nearest}?" in message


def test_hopeless_keys_list_the_section(write):
    assert "zero has stage" in refused(write(), "zero.qqqqqq=1")


def test_all_problems_are_reported_at_once(write):
    path = write("run: {name: .hidden}\ndata: {store: x}\ntrain:\n  lr: fast\n  stepz: 3\n")
    lines = refused(path, "broken", "parallel.keep_chunks=-1", "model.preset=ttt-huge").splitlines()
    assert "8 problems" in lines[0]
    for start in (
        "override 'broken': expected section.key=value",
        f"{path}:1: run.name = '.hidden': expected text that matches",
        f"{path}:4: train.lr = 'fast': expected a finite number",
        f"{path}:5: train.stepz is not a known key; did you mean train.steps?",
        "train.steps is missing",
        "data.sequence_length is missing",
        "override 'parallel.keep_chunks=-1': parallel.keep_chunks = -1: expected auto, or",
        "override 'model.preset=ttt-huge': model.preset = 'ttt-huge': expected one of ttt-linear",
    ):
        assert any(line.strip().startswith(start) for line in lines), start


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=0", "expected greater than or equal to 1"),
        ("train.betas=[0.9]", "train.betas[1] is missing"),
        ("train.betas=[0.9, 1]", "train.betas[1] = 1: expected less than 1"),
        ("train.precision=fp16", "expected 'fp32' or 'bf16'"),
        ("logging.wandb.mode=off", "expected 'offline', 'online' or 'disabled'"),
        ("run.name=8", "expected text; put it in quotes"),
        ("train=5", "expected a section"),
        ("model.hidden_size=100", "hidden_size 100 is not a multiple of num_attention_heads 12"),
        ("model.hidden_size=true", "expected a whole number"),
        ("data.blend=[{store: a, weight: 0}]", "data.blend[0].weight = 0: expected greater than 0"),
        ("data.blend=[{store: a}, {weight: 2}]", "data.blend[1].store is missing; set it in the"),
        ("data.blend=[{store: a, wait: 2}]", "data.blend[0].wait is not a known key; did you mean"),
        ("data.blend=[]", "data.blend = []: expected a list of at least 1"),
        ("data.blend={store: a}", "data.blend = {'store': 'a'}: expected a list"),
        ("data.skip_steps=3", "data.skip_steps = 3: expected a list of steps and ranges"),
        ("data.skip_steps=[0]", "data.skip_steps = [0]: expected steps of at least 1"),
        ("data.skip_steps=[9-8]", "after their first step, found '9-8'"),
        ("data.skip_steps=[7, 1200-]", "ranges such as 1200-1210, found '1200-'"),
        ("data.skip_steps=[1-2-3]", "found '1-2-3'"),
        ("data.skip_steps=[-5]", "found -5"),
        ("data.skip_steps=[1.5]", "found 1.5"),
        ("data.skip_steps=[[1]]", "found [1]"),
        ("zero.stage=4", "expected less than or equal to 3"),
        ("checkpoint.resume=sometimes", "expected auto or never, or a whole number"),
        ("train.lr={a: ", "not valid YAML"),
        ("train.lr=" + "[" * 3000, "nested too deeply"),
    ],
)
def test_wrong_values_say_what_is_expected(write, override, expected):
    assert expected in refused(write(), override)


def test_an_error_in_a_list_names_its_line(write):
    text = "data:\n  blend:\n  - {store: a, weight: fast}\n  - {store: b, weight: 2}\n"
    path = write("base: base.yaml\n" + text)
    write(name="base.yaml")
    assert refused(path).startswith(f"{path}:4: data.blend[0].weight = 'fast': expected a finite")


@pytest.mark.parametrize(
    ("given", "steps", "ranges"),
    [
        ("[1200-1210,1300]", ("1200-1210", 1300), ((1200, 1210), (1300, 1300))),
        ("[1k-2k, 5, 1_500 - 3000]", (5, "1000-3000"), ((5, 5), (1000, 3000))),
        ("[4, 3, 3-3, 5-6]", ("3-6",), ((3, 6),)),
        ("[]", (), ()),
    ],
)
def test_skipped_steps(write, given, steps, ranges):
    config = load_config(write(), [f"data.skip_steps={given}"])
    assert (config.data.skip_steps, config.data.skipped) == (steps, ranges)
    assert load_config(write(dump_config(config), "again.yaml")) == config


def test_a_blend_reads_back_equal(write):
    blend = "data.blend=[{store: a, weight: 2.5}, {store: b}]"
    config = load_config(write(), ["data.store=null", blend])
    assert [(part.store, part.weight) for part in config.data.components] == [
        ("a", 2.5),
        ("b", 1.0),
    ]
    assert load_config(write(dump_config(config), "again.yaml")) == config
    assert [part.store for part in load_config(write()).data.components] == ["stores/text"]


@pytest.mark.parametrize("text", ["- a\n", "5", "a: [", "\x00", "run: !!python/name:os.system {}"])
def test_files_that_are_no_configuration(write, text):
    refused(write(text))


def test_unreadable_files(tmp_path):
    assert "cannot read" in refused(tmp_path / "none.yaml")
    assert "cannot read" in refused(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run: {name: caf\xe9}")
    assert "cannot read" in refused(tmp_path / "latin.yaml")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(30)
)
HOSTILE = {
    "a billion laughs": LAUGHS,
    "an alias inside itself": "run: &run {name: *run}",
    "a list inside itself": "run: &run [*run]",
    "deep": "run: " + "[" * 100_000,
    "deep by indenting": "".join(" " * n + "a:\n" for n in range(200)),
    "a million digits": "run: {seed: " + "9" * 200_000 + "}",
    "many digits": "run: {seed: " + "9" * 4000 + "}",
    "nearly a number": "run: {seed: " + "1" * 200_000 + "x}",
    "nearly a real number": "run: {seed: " + "1_" * 100_000 + ".e}",
    "large": "# \n" * 100_000,
    "many values": "run: [" + "a," * 100_000 + "]",
    "a tag": "run: !!python/object/apply:os.system [ls]",
    "a tag of a section": "run: !!set {a}",
    "a strange boolean": "run: {name: !!bool maybe}",
    "a strange time": "run: {name: !!timestamp later}",
    "a strange number": "run: {seed: !!int 0x10}",
    "bytes": "run: {name: !!binary a}",
    "a key of lists": "? [a, b]\n: c",
    "a key of sections": "? {a: b}\n: c",
    "a key that cannot be shown": 'run: {"\\e[31m": 1}',
    "half a pair": 'run: {"name": "\\ud800"}',
    "two documents": "run: {name: a}\n---\nrun: {name: b}",
    "only anchors": "&a *a",
    "no characters": "run: \x07",
    "an infinite rate": "train: {lr: .inf}",
    "no rate": "train: {lr: .nan}",
    "too large a rate": "train: {lr: 1e400}",
    "not a number by its tag": "train: {lr: !!float nan}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_one_error_with_their_name(write, text):
    path = write(text)
    message = refused(path)
    assert str(path) in message
    assert len(message) < 5000
    assert all(line.isprintable() for line in message.splitlines())


def test_what_is_no_file_is_not_waited_for(tmp_path, write):
    for path in no_files(tmp_path / "strange").values():
        assert f"cannot read the configuration {path}: " in refused(path)
    path = write(f"base: {tmp_path}/strange/pipe\n")
    assert "there is no file" in refused(path)


def test_aliases_and_a_byte_order_mark_are_fine(tmp_path):
    path = tmp_path / "run.yaml"
    text = RUN.replace("steps: 10", "steps: &n 10").replace("lr: 1e-4", "warmup_steps: *n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_config(path).train.warmup_steps == 10


def test_a_configuration_cannot_change(write):
    config = load_config(write())
    with pytest.raises(Exception, match="frozen"):
        config.train.lr = 1.0


def test_every_key_is_described():
    def undescribed(section, prefix=""):
        for name, field in section.model_fields.items():
            if not field.description:
                yield prefix + name
            if hasattr(field.annotation, "model_fields"):
                yield from undescribed(field.annotation, f"{prefix}{name}.")

    assert list(undescribed(Config)) == []


def test_a_configuration_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "left_by_a_stranger.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "run.yaml"
    for tag in ("module:left_by_a_stranger", "name:left_by_a_stranger.x"):
        for key in ("run", "run.name"):
            path.write_text(f"{{{key}: !!python/{tag} ''}}")
            with pytest.raises(ConfigError):
                load_config(path)
            with pytest.raises(ConfigError):
                load_config(Path("configs/quickstart.yaml"), [f"{key}=!!python/{tag} ''"])
    assert "left_by_a_stranger" not in sys.modules


@pytest.mark.parametrize("value", ["{}", "'{}'", "https://user:{}@host/project"])
@pytest.mark.parametrize("key", ["logging.wandb.api_key", "logging.wandb_token"])
def test_a_credential_under_a_key_of_that_name_is_not_repeated(write, value, key):
    secret = "hFy83kqLmX02"
    message = refused(write(), f"{key}={value.format(secret)}")
    assert f"{key} is not a known key" in message
    assert secret not in message


def test_a_project_of_wandb_is_a_name_and_no_location(write):
    message = refused(write(), "logging.wandb.project=https://user:x83hdk2@host/p")
    assert "logging.wandb.project = 'https://***@host/p': expected text that matches" in message


@pytest.mark.parametrize("value", ["auto", "torch", "mpi"])
def test_what_carries_travel_over(write, value):
    """Files of all versions name it, or do not."""
    old = write(f"parallel: {{transport: {value}, sequence: 1}}\n", "old.yaml")
    config = load_config(write(f"base: {old.name}\n" + RUN))
    assert config.parallel.transport == value
    assert load_config(write()).parallel.transport == "auto"


@pytest.mark.parametrize("value", ["nccl", "[auto]", "{auto: 1}", "null"])
def test_other_transports_are_refused_with_those_that_there_are(write, value):
    said = refused(write(), f"parallel.transport={value}")
    assert said.startswith(f"override 'parallel.transport={value}': parallel.transport")
    assert "expected 'auto', 'torch' or 'mpi'" in said


def test_an_override_of_a_layer_whose_own_name_has_dots(write):
    name = "tests.mixers.gated_delta:GatedDelta"
    overrides = (f"model.pattern=[{name}]", f"model.options.{name}.decay_bias=0.5")
    assert load_config(write(), overrides).model.options == {name: {"decay_bias": 0.5}}
    key = f"model.options.{name}.decay"
    assert f"{key} is no option of this layer; its options: decay_bias" in refused(
        write(), overrides[0], f"{key}=1"
    )
