"""Sequence layers by name, and their options."""

import pytest
from pydantic import model_validator

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import (
    tiny_config,
)
from tttscale.model import (
    TTTForCausalLM,
    mixer,
)
from tttscale.model.registry import alignment, check_pattern

OWN = "tests.mixers.gated_delta:GatedDelta"


MIXED = {"pattern": (OWN, "ttt-mlp", "ttt-linear"), "options": {"ttt-mlp": {"base_lr": 0.1}}}


class Demanding(GatedDelta):
    """Cannot do without an option."""

    class Options(GatedDelta.Options):
        """One that has no default, and a rule for it."""

        window: int

        @model_validator(mode="after")
        def _even(self):
            if self.window % 2:
                raise ValueError("an even window is wanted")
            return self


class Crooked(GatedDelta):
    """Can be cut nowhere."""

    @classmethod
    def alignment(cls, config, options):
        return 0


class Confused(GatedDelta):
    """Does not know where it can be cut."""

    @classmethod
    def alignment(cls, config, options):
        return 1 // 0


class Loose(GatedDelta):
    """Takes any options."""

    class Options:
        """Options without types, which nothing checks."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def f(:\n", r"cannot be imported: invalid syntax \(\S+a_fault.py, line 1\)"),
        ("\nwidht\n", r"NameError: name 'widht' is not defined \(\S+a_fault.py, line 2\)"),
        (
            "import no_such_library\n",
            r"No module named 'no_such_library' \(\S+a_fault.py, line 1\)$",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_shown_with_its_line(
    tmp_path, monkeypatch, content, said
):
    (tmp_path / "a_fault.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=said):
        check_pattern(tiny_config(pattern=("a_fault:Layer",)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pattern": ("ttt-linear", "mamba")}, r"model.pattern\[1\] = 'mamba' is none of ttt-linear"),
        ({"pattern": ("no_such_module:X",)}, r"pattern\[0\] = 'no_such_module:X' cannot be imported"),
        ({"pattern": ("tests.mixers.gated_delta:Nope",)}, "cannot be imported: .*Nope"),
        ({"pattern": ("json:JSONDecoder",)}, "is no subclass of tttscale.model.Mixer"),
        (
            {"pattern": ("ttt-mlp",), "options": {"ttt-mlp": {"base_rl": 1}}},
            "model.options.ttt-mlp.base_rl is no option of this layer; its options: base_lr",
        ),
        (
            {"pattern": ("ttt-mlp",), "options": {"ttt-mlp": {"base_lr": -1}}},
            r"model.options.ttt-mlp.base_lr = -1: expected",
        ),
        ({"options": {"ttt-mlp": {"base_lr": 1}}}, "model.options.ttt-mlp is for a layer that"),
        ({"options": {"ttt-linear": {"x": 1}}}, "model.options.ttt-linear.x is no option"),
        ({"options": {"ttt-linear": {"base_lr": True}}}, "ttt-linear.base_lr = True: expected"),
        ({"pattern": ("no_such_module:X",)}, "Start in the folder that holds its file"),
        ({"pattern": ("tttscale.model:Mixer",)}, r"has no carry\(\), which every layer needs"),
        ({"pattern": (f"{__name__}:Demanding",)}, "Demanding.window is missing; this layer needs it"),
        (
            {"pattern": (f"{__name__}:Demanding",), "options": {f"{__name__}:Demanding": {"window": 3}}},
            "Demanding = {'window': 3}: an even window is wanted",
        ),
        ({"pattern": (f"{__name__}:Crooked",)}, r"alignment\(\) of .*Crooked' gives 0; expected tokens"),
        ({"pattern": (f"{__name__}:Confused",)}, r"alignment\(\) of .* failed: ZeroDivisionError: .*line"),
        ({"pattern": (f"{__name__}:Loose",)}, "Options that are no subclass of tttscale.model.Mixer.Opt"),
    ],
)  # fmt: skip
def test_wrong_names_and_options_are_named_by_their_key(fields, said):
    with pytest.raises(ValueError, match=said):
        check_pattern(tiny_config(**fields))


def test_an_option_reaches_its_layer():
    model = TTTForCausalLM(tiny_config("linear", layers=3, **MIXED))
    rates = [getattr(block.seq_modeling_block, "base_lr", None) for block in model.carry_layers]
    assert rates == [None, 0.1, 1.0]


def test_a_name_belongs_to_one_layer():
    mixer("mine-for-test")(GatedDelta)
    mixer("mine-for-test")(GatedDelta)
    for name in ("mine-for-test", "ttt-mlp", "a:b"):
        with pytest.raises(ValueError, match="choose another name"):
            mixer(name)(Crooked)


class Aligned(GatedDelta):
    """Can be cut at every third token."""

    @classmethod
    def alignment(cls, config, options):
        return 3


def test_chunks_are_cut_where_all_layers_can_be():
    config = tiny_config(pattern=("ttt-linear", f"{__name__}:Aligned"))
    assert alignment(config) == 12
    assert alignment(tiny_config()) == config.mini_batch_size
