"""The section `model`: a preset, and the fields beside it."""

from tttscale.config import load_config
from tttscale.model.architecture import TTTConfig, preset_fields


def test_architecture_is_the_preset_with_the_fields_beside_it(write):
    config = load_config(write(), ["model.vocab_size=1Ki", "model.pad_token_id=0"])
    expected = {**preset_fields("ttt-linear-125m"), "vocab_size": 1024, "pad_token_id": 0}
    assert config.architecture() == TTTConfig(**expected)
    assert type(config.architecture()) is TTTConfig


def test_architecture_without_preset_has_the_official_defaults(write):
    config = load_config(write(), ["model={preset: null, num_hidden_layers: 2}"])
    assert config.architecture() == TTTConfig.model_validate({"num_hidden_layers": 2})
