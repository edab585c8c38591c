"""The two verbs: notices on stderr, the result on stdout, and errors that name the flag."""

import pytest
from safetensors.torch import load_file

from tests.convert.streams import GOLDEN, STATE, params
from tests.trained import byte_model
from tttscale import cli
from tttscale.model import TTTForCausalLM


@pytest.fixture
def run(capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run_command


def test_import(run, tmp_path):
    code, out, said = run("import", STATE, tmp_path / "out", "--ttt-base-lr", 1.0)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'out'}: ")
    assert "parameters in bfloat16, " in out
    assert "train state of ttt-lm-jax after step 7" in said
    assert "rope_theta = 10000 is assumed" in said
    TTTForCausalLM.from_pretrained(tmp_path / "out")


def test_import_with_all_that_can_be_said(run, tmp_path):
    code, _, said = run(
        *("import", params("mlp_base"), tmp_path / "out", "--ttt-base-lr", 0.1),
        *("--rope-theta", 10000, "--rms-norm-eps", "1e-6", "--dtype", "float32"),
        *("--shard-bytes", "100Ki", "--tokenizer", "none", "--tolerance", "1e-5"),
        *("--check-logits", GOLDEN / "jax/mlp_base.logits.safetensors"),
    )
    assert code == 0
    assert "assumed" not in said
    assert "logits differ by at most" in said
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2


def test_export(run, tmp_path):
    byte_model().save_pretrained(tmp_path / "in")
    code, out, said = run(
        *("export", tmp_path / "in", tmp_path / "out", "--tokenizer", "bytes"),
        *("--dtype", "bfloat16", "--shard-bytes", "5G"),
    )
    assert code == 0
    assert "in bfloat16" in out
    assert f"model {tmp_path / 'in'}, tokenizer bytes" in said
    assert set(load_file(tmp_path / "out/model.safetensors"))
    code, text, _ = run("generate", tmp_path / "out", "ab", "--tokens", 3)
    assert code == 0
    assert text


def test_a_launcher_is_refused(run, tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for verb in ("import", "export"):
        code, _, said = run(verb, tmp_path / "in", tmp_path / "out")
        assert code == 69
        assert f"{verb} runs in one process" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("import", STATE, "OUT"), 64, "--ttt-base-lr is needed"),
        (
            ("import", STATE, "OUT", "--ttt-base-lr", "0"),
            64,
            "--ttt-base-lr 0.0: expected a finite",
        ),
        (("import", STATE, "OUT", "--ttt-base-lr", "nan"), 64, "--ttt-base-lr nan"),
        (("import", STATE, "OUT", "--rope-theta", "inf"), 64, "--rope-theta inf"),
        (("import", STATE, "OUT", "--tolerance", "-1"), 64, "--tolerance -1.0"),
        (("import", STATE, "OUT", "--shard-bytes", "many"), 64, "--shard-bytes 'many'"),
        (("import", STATE, "OUT", "--shard-bytes", "0"), 64, "--shard-bytes '0'"),
        (("import", STATE, "OUT", "--dtype", "int8"), 2, "'int8' is not one of"),
        (("import", STATE, "."), 64, "exists already"),
        (("import", "nowhere", "OUT"), 66, "nowhere"),
        (("import", STATE, "OUT", "--ttt-base-lr", "1", "--tokenizer", "gone"), 65, "gone"),
        (("export", "nowhere", "OUT"), 66, "nowhere"),
        (("export", "nowhere", "."), 64, "exists already"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    found, _, said = run(*arguments)
    assert found == code
    assert words in said
    assert list(tmp_path.iterdir()) == []
