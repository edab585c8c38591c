import pytest

from tests.hostile import no_files
from tttscale.config import dump_config, load_config
from tttscale.errors import ConfigError


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


@pytest.mark.parametrize("text", ["- a\n", "5", "a: [", "\x00", "run: !!python/name:os.system {}"])
def test_files_that_are_no_configuration(write, text):
    refused(write(text))


def test_unreadable_files(tmp_path):
    assert "cannot read" in refused(tmp_path / "none.yaml")
    assert "cannot read" in refused(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run: {name: caf\xe9}")
    assert "cannot read" in refused(tmp_path / "latin.yaml")


def test_what_is_no_file_is_not_waited_for(tmp_path, write):
    for path in no_files(tmp_path / "strange").values():
        assert f"cannot read the configuration {path}: " in refused(path)
    path = write(f"base: {tmp_path}/strange/pipe\n")
    assert "there is no file" in refused(path)
