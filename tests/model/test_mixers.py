"""Sequence layers by name: a user's own among them, and every way of not keeping one's word is named."""

import json

import pytest
import torch
from pydantic import model_validator

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import (
    random_tokens,
    relative,
    sweep,
    tiny_config,
    tiny_model,
    whole_pass,
)
from tttscale.errors import CheckpointError, MixerError
from tttscale.model import (
    Carried,
    Mixer,
    TTTConfig,
    TTTForCausalLM,
    check_mixer,
    mixer,
    recv_state,
    send_state,
)
from tttscale.model.pretrained import load_weights
from tttscale.model.registry import alignment, check_pattern
from tttscale.model.ttt_layer import TTTMLP, TTTLinear

OWN = "tests.mixers.gated_delta:GatedDelta"
MAMBA = {"share_qk": True, "use_gate": True, "pre_conv": True}
MIXED = {"pattern": (OWN, "ttt-mlp", "ttt-linear"), "options": {"ttt-mlp": {"base_lr": 0.1}}}


@pytest.mark.parametrize("layer", [TTTLinear, TTTMLP, GatedDelta])
def test_these_keep_their_word(layer):
    report = check_mixer(layer)
    assert report.steps > 25
    assert report.gradient_error < 1e-12


def test_the_mamba_backbone_does_too():
    report = check_mixer(TTTLinear, config=tiny_config(vocab_size=29))
    assert list(report.parts) == ["pre_conv", "qk_conv", "state"]


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
def test_a_mixed_model_is_split_bitwise_and_equals_its_whole_pass(kind):
    config = tiny_config(layers=4, **MIXED)
    tokens = [random_tokens(45, seed=1)]
    alone, _ = sweep(config, [tokens], kind=kind)
    expected, expected_grads = whole_pass(tiny_model(config), tokens)
    assert relative(alone.sequence_sums[0], torch.tensor(expected, dtype=torch.float64)) < 1e-12
    for ranks, keep in ((2, 0), (3, 2)):
        losses, grads = sweep(config, [tokens], ranks=ranks, kind=kind, keep=keep)
        assert torch.equal(losses.sums, alone.sums)
        for name, grad in grads.items():
            assert relative(grad, expected_grads[name]) < 1e-12, name


def test_a_pattern_of_the_official_layer_is_the_official_model():
    plain = tiny_config("mlp", layers=3)
    named = tiny_config("mlp", layers=3, pattern=("ttt-mlp",))
    for name, value in TTTForCausalLM(plain).state_dict().items():
        assert torch.equal(TTTForCausalLM(named).state_dict()[name], value), name


# ---- what breaks its word ----------------------------------------------------------------------


class Broken(GatedDelta):
    """Misbehaves as told."""

    class Options(GatedDelta.Options):
        """What to get wrong."""

        way: str = ""

    def carry(self, batch, tokens):
        declared = super().carry(batch, tokens)
        if self.options.way == "more":
            return {"tail": Carried(((batch, 3),)), **declared}
        if self.options.way == "names depend on tokens":
            return declared if not 20 < tokens < 1000 else {"other": declared["memory"]}
        if self.options.way == "bf16":
            return {"memory": declared["memory"]._replace(dtype=torch.bfloat16)}
        return declared

    def reset(self, generator, init):
        for name, parameter in self.named_parameters():
            if self.options.way != "no values" or name != "gates.weight":
                parameter.normal_(0, 0.3, generator=generator)

    def forward(self, h, chunk, ports):
        way = self.options.way
        if way == "undeclared":
            ports["stat"]
        if way == "twice":
            recv_state(ports["memory"], h)
        if way == "no row":
            return self._one_row(h, ports)
        if way == "unsent":
            (h,), _ = recv_state(ports["memory"], h)
            return self.out(h)
        if way == "sees its rank":
            y = super().forward(h, chunk, ports)
            return y * (1 + 1e-6 * ports["memory"].peer_waits_for_state)
        if way == "documents":
            chunk = type(chunk)()
        return super().forward(h, chunk, ports)

    def _one_row(self, h, ports):
        (h,), _ = recv_state(ports["memory"], h)
        shape = self.carry(1, 1)["memory"].shapes[0]  # [1, ...], and h has two rows
        return self.out(send_state(ports["memory"], h, (h.new_zeros(shape) + h.sum(),)))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("undeclared", r"layer 0 \(.*Broken\), chunk 0: forward uses part 'stat', .* \['memory'\]"),
        ("twice", r"recv_state of part 'memory' after \['memory'\]; the order is .* each once"),
        ("unsent", "send_state of part 'memory', which carry\\(\\) declares, never came"),
        ("more", "recv_state of part 'memory' first; the order is \\['tail', 'memory'\\]"),
        (
            "no row",
            r"send_state of part 'memory' with \['\(1, 2, 12, 12\) .*64'\], .* \['\(2, 2, 12, 12\)",
        ),
        ("bf16", r"with \['.* torch.float64'\], carry\(\) declares \['.* torch.bfloat16'\]"),
        ("names depend on tokens", "only shapes may depend on the tokens seen"),
        ("no values", "Broken: reset\\(\\) gives the parameter gates.weight no value"),
        ("sees its rank", "losses depend on how the sequence is split: striped, 2 rank"),
        (
            "documents",
            "In rows where a document starts the layer must begin from its initial carry",
        ),
    ],
)
def test_a_broken_word_is_an_error_that_names_layer_and_part(way, said):
    with pytest.raises(MixerError, match=said):
        check_mixer(Broken, options={"way": way})


class Forgetful(Mixer):
    """Never uses what it receives: the chunk before must get a gradient of zeros all the same."""

    def __init__(self, config, options):
        super().__init__(config, options)
        self.weight = torch.nn.Parameter(torch.empty(config.hidden_size))

    def carry(self, batch, tokens):
        return {"sum": Carried(((batch, self.config.hidden_size),))}

    def reset(self, generator, init):
        self.weight.normal_(generator=generator)

    def forward(self, h, chunk, ports):
        (h,), _ = recv_state(ports["sum"], h)
        return send_state(ports["sum"], h * self.weight, (h.sum(1),))


def test_a_carry_that_is_not_used_still_has_a_gradient():
    assert check_mixer(Forgetful).gradient_error < 1e-12


class Narrow(GatedDelta):
    """Hands its memory on in bf16, as keys and values would be."""

    def carry(self, batch, tokens):
        return {"memory": super().carry(batch, tokens)["memory"]._replace(dtype=torch.bfloat16)}

    def forward(self, h, chunk, ports):
        (h,), past = recv_state(ports["memory"], h)
        mean = h.mean((1, 2), keepdim=True)
        shape = self.carry(len(h), 1)["memory"].shapes[0]
        if past is not None:
            h = h + past[0].to(h.dtype).mean((1, 2, 3))[:, None, None]
        part = (mean.view(-1, 1, 1, 1).expand(shape).to(torch.bfloat16),)
        return self.out(send_state(ports["memory"], h, part)) + 0 * (
            self.qkv.weight.sum() + self.gates.weight.sum()
        )


def test_a_part_of_another_dtype_is_split_bitwise():
    config = tiny_config(backbone="transformer", pattern=("narrow-for-test",))
    mixer("narrow-for-test")(Narrow)
    alone, _ = sweep(config, [[random_tokens(45)]])
    for ranks in (2, 3):
        losses, _ = sweep(config, [[random_tokens(45)]], ranks=ranks)
        assert torch.equal(losses.sums, alone.sums)


class Faulty(GatedDelta):
    """Raises, or answers what nobody can use, as told."""

    class Options(GatedDelta.Options):
        """Where."""

        way: str = ""

    def __init__(self, config, options):
        super().__init__(config, options)
        if options.way == "init":
            torch.nn.Linear("a", 3)
        self.gates.requires_grad_(options.way != "frozen")

    def carry(self, batch, tokens):
        if self.options.way == "carry":
            raise KeyError("no such thing")
        if self.options.way == "flat":
            return {"memory": Carried((batch, 3))}
        return None if self.options.way == "no parts" else super().carry(batch, tokens)

    def reset(self, generator, init):
        super().reset(generator, init)
        if self.options.way == "reset":
            raise RuntimeError("this is not ready")

    def forward(self, h, chunk, ports):
        out = super().forward(h, chunk, ports)
        return {"none": None, "broadcast": out[:, :1]}.get(self.options.way, out)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("init", r"pattern: .*Faulty' cannot be made: TypeError: .*/test_mixers.py, line \d+\)"),
        ("carry", r"carry\(2, \d+\) failed: KeyError: 'no such thing' \(\S+test_mixers.py, line"),
        ("flat", r"declares 'memory' as Carried\(shapes=\(2, 3\).*; expected .*\(\(2, 8, 64\),\)"),
        ("no parts", "carry.* gives None; expected a dict of parts"),
        (
            "reset",
            r"Faulty: reset\(\) failed: RuntimeError: this is not ready \(.*test_mixers.py",
        ),
        ("frozen", "Faulty: the parameter gates.weight takes no gradient, .* make it a buffer"),
        ("none", r"Faulty: forward returns None; expected a tensor \[2, \d+, 24\]"),
        ("broadcast", r"forward returns \[2, 1, 24\]; expected a tensor \[2, \d+, 24\]"),
    ],
)
def test_faults_of_a_layer_are_shown_with_its_own_line(way, said):
    with pytest.raises(MixerError, match=said):
        check_mixer(Faulty, options={"way": way})


def test_a_part_is_not_called_as_the_convolution_in_front():
    class Clash(GatedDelta):
        def carry(self, batch, tokens):
            return {"pre_conv": super().carry(batch, tokens)["memory"]}

    with pytest.raises(MixerError, match=r"expected a dict of parts, none called \['pre_conv'\]"):
        check_mixer(Clash, config=tiny_config(vocab_size=29))


# ---- names and options -------------------------------------------------------------------------


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
            mixer(name)(Forgetful)


class Aligned(GatedDelta):
    """Can be cut at every third token."""

    @classmethod
    def alignment(cls, config, options):
        return 3


def test_chunks_are_cut_where_all_layers_can_be():
    config = tiny_config(pattern=("ttt-linear", f"{__name__}:Aligned"))
    assert alignment(config) == 12
    assert alignment(tiny_config()) == config.mini_batch_size


# ---- weights in and out ------------------------------------------------------------------------


def test_a_mixed_model_is_saved_and_loaded(tmp_path):
    model = TTTForCausalLM(tiny_config(layers=3, **MIXED))
    model.save_pretrained(tmp_path)
    again = TTTForCausalLM.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[n], w) for n, w in model.state_dict().items())


def test_options_without_a_pattern_are_saved_too(tmp_path):
    model = TTTForCausalLM(tiny_config(options={"ttt-linear": {"base_lr": 0.25}}))
    model.save_pretrained(tmp_path)
    again = TTTForCausalLM.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.carry_layers[0].seq_modeling_block.base_lr == 0.25
    with pytest.raises(
        CheckpointError, match=r'options = {"ttt-linear": .*set model.options={"ttt-'
    ):
        load_weights(TTTForCausalLM(tiny_config()), tmp_path)


def test_weights_of_unknown_layers_are_compared_and_not_imported(tmp_path):
    """What their config.json says is all that is needed to say what to set."""
    TTTForCausalLM(tiny_config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pattern": ["this:Foo"]}))
    with pytest.raises(CheckpointError, match=r'set model.pattern=\["this:Foo"\]'):
        load_weights(TTTForCausalLM(tiny_config()), tmp_path)


def test_a_pattern_does_not_hide_that_a_folder_claims_too_many_layers(tmp_path):
    TTTForCausalLM(tiny_config(pattern=("ttt-linear",))).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 10**9}))
    with pytest.raises(CheckpointError, match="parameters or more"):
        TTTForCausalLM.from_pretrained(tmp_path)


def test_official_files_do_not_know_of_patterns(tmp_path):
    TTTForCausalLM(tiny_config()).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert not {"pattern", "options"} & fields.keys()
    assert (
        TTTConfig(**{k: v for k, v in fields.items() if k in TTTConfig.model_fields}).pattern
        is None
    )


def test_a_model_folder_imports_no_code(tmp_path):
    TTTForCausalLM(tiny_config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pattern": ["this:Foo"]}))
    with pytest.raises(CheckpointError, match="import this first if you trust it"):
        TTTForCausalLM.from_pretrained(tmp_path)
