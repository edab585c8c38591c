import json
import math
from dataclasses import replace

import pytest

from tests.plan.helpers import PARTS, simple_costs
from tttscale.config import Config, load_config
from tttscale.errors import ConfigError
from tttscale.plan.costs import Costs, Line, StepCosts, Wire, assumed, load
from tttscale.plan.gpus import GPUS
from tttscale.plan.program import Programs
from tttscale.scan.timeline import Activity, Run


def config(**model):
    fields = {
        "run": {"name": "x"},
        "data": {"store": "x", "sequence_length": 8192},
        "train": {"steps": 1},
    }
    return Config.model_validate({"model": {"preset": "ttt-linear-125m", **model}, **fields})


def test_costs_are_lines():
    costs = simple_costs(per_token=0.5, send=3.0)
    assert costs.seconds(Run.FORWARD, Activity.ADVANCE, 10, 1) == 0.25 + 5
    assert costs.seconds(Run.BACKWARD, Activity.ADVANCE, 10, 1) == 0.5 + 10
    assert (
        costs.seconds(Run.FORWARD, Activity.SEND, 10, 1) == 3
    )  # a message, however long the chunk
    assert costs.wire_seconds(1e12, same_host=True) == 1


def test_a_recomputation_costs_a_forward_unless_it_is_known():
    costs = simple_costs()
    assert costs.seconds(Run.RECOMPUTE, Activity.FINISH, 1, 0) == 2
    known = dict(costs.layers["layer"]) | {"recompute.finish": Line(7, 0)}
    costs = Costs(**{**vars(costs), "layers": {"layer": known}})
    assert costs.seconds(Run.RECOMPUTE, Activity.FINISH, 1, 0) == 7


def test_a_rank_without_waiting_peers_may_be_faster():
    costs = simple_costs()
    known = dict(costs.layers["layer"]) | {"alone.backward.advance": Line(0.125, 0)}
    costs = Costs(**{**vars(costs), "layers": {"layer": known}})
    assert costs.seconds(Run.BACKWARD, Activity.ADVANCE, 1, 0, alone=True) == 0.125
    assert costs.seconds(Run.BACKWARD, Activity.ADVANCE, 1, 0) == 0.5
    assert costs.seconds(Run.BACKWARD, Activity.READOUT, 1, 0, alone=True) == 1.0


def test_where_in_the_projections_tails_are_exchanged():
    costs = simple_costs()
    even = [costs.share_before(Run.FORWARD, PARTS, i) for i in range(2)]
    assert even == pytest.approx([1 / 3, 2 / 3])
    back = [costs.share_before(Run.BACKWARD, PARTS, i) for i in range(2)]
    assert back == pytest.approx([2 / 3, 1 / 3])
    costs = Costs(**{**vars(costs), "splits": {"forward": {"qk_conv": 0.9}}})
    assert costs.share_before(Run.RECOMPUTE, PARTS, 1) == 0.9


def test_a_step_besides_its_sweeps():
    step = StepCosts(Wire(1.0, 100.0), Wire(2.0, 200.0), 0.5, 3.0)
    assert step.seconds(parameters=100, ranks=4, stage=1) == {
        "reduce": 1 + 300 / 100,
        "gather": 2 + 300 / 200,
        "optimizer": 12.5,
        "overhead": 3.0,
    }
    assert step.seconds(100, 1, 1) == {
        "reduce": 0.0,
        "gather": 0.0,
        "optimizer": 50.0,
        "overhead": 3.0,
    }
    assert step.seconds(100, 4, 0)["optimizer"] == 50.0


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("preset", ["ttt-linear-1.3b", "ttt-mlp-125m-transformer"])
def test_every_gpu_has_assumptions(gpu, preset):
    costs = assumed(gpu, config(preset=preset))
    for run in Run:
        for activity in (Activity.PROJECT, Activity.ADVANCE, Activity.READOUT, Activity.FINISH):
            short, long = (costs.seconds(run, activity, tokens, 0) for tokens in (1024, 8192))
            assert 0 < short < long < 30 * short
    assert costs.seconds(Run.FORWARD, Activity.HEAD, 1024, -1) > 0
    assert gpu in costs.source
    assert "nothing was measured" in costs.source


def test_assumptions_know_the_learner_the_batch_and_the_precision():
    def advance(costs):
        return costs.seconds(Run.FORWARD, Activity.ADVANCE, 4096, 0)

    def project(costs):
        return costs.seconds(Run.FORWARD, Activity.PROJECT, 4096, 0)

    linear, mlp = (assumed("h200", config(preset=f"ttt-{kind}-1.3b")) for kind in ("linear", "mlp"))
    assert advance(mlp) > 3 * advance(linear)
    base = config(preset="ttt-linear-1.3b")
    two = base.model_copy(update={"parallel": base.parallel.model_copy(update={"batch": 2})})
    assert project(assumed("h200", two)) > 1.8 * project(linear)
    assert advance(assumed("h200", two)) == advance(linear)  # 64 heads fit side by side
    fp32 = base.model_copy(update={"train": base.train.model_copy(update={"precision": "fp32"})})
    assert project(assumed("h200", fp32)) > 5 * project(linear)


def test_a_layer_of_someones_own_is_named():
    own = config(num_hidden_layers=2, pattern=["ttt-mlp", "their_file:Layer"])
    costs = assumed("h100", own)
    assert costs.kinds == ("ttt-mlp", "their_file:Layer")
    assert "their_file:Layer: costed as ttt-linear" in costs.source


def test_an_unknown_gpu():
    with pytest.raises(ConfigError, match=r"--gpu b300: .* one of h200, .*cpu, or measured"):
        assumed("b300", config())


def test_a_file_of_costs(tmp_path):
    costs = assumed("h200", load_config("configs/ttt-mlp-1.3b-128Ki.yaml"))
    file = tmp_path / "costs.json"
    file.write_text(costs.to_json())
    assert load(file) == costs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("{}", "not costs of this version"),
        ('{"format": 1, "costs": {"source": "x"}}', "kinds: Field required"),
        (
            "changed",
            r"layers\.ttt-linear\.forward\.project\.fixed = 'quick': expected a valid number",
        ),
        ("kinds", r"kinds: no costs of \['other'\]"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, text, message):
    file = tmp_path / "costs.json"
    value = json.loads(assumed("cpu", config()).to_json())
    if text == "changed":
        value["costs"]["layers"]["ttt-linear"]["forward.project"]["fixed"] = "quick"
        text = json.dumps(value)
    if text == "kinds":
        value["costs"]["kinds"][0] = "other"
        text = json.dumps(value)
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load(file)
    assert "bench step --calibrate" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ("same_host", "bytes_per_second"),
            0,
            r"same_host\.bytes_per_second = 0: expected greater",
        ),
        (
            ("step_seconds", "reduce", "bytes_per_second"),
            0.0,
            r"reduce\.bytes_per_second = 0\.0: expected greater than 0",
        ),
        (("between_hosts", "latency"), -1, r"latency = -1: expected greater than or equal to 0"),
        (
            ("layers", "ttt-linear", "forward.project", "fixed"),
            -0.5,
            r"project\.fixed = -0\.5: expected greater",
        ),
        (("layers", "ttt-linear", "forward.project", "fixed"), "0.5", r"fixed = '0\.5': expected"),
        (("layers", "ttt-linear", "forward.project", "fixed"), True, "fixed = True: expected"),
        (("splits", "forward", "qk_conv"), 1.5, r"splits\.forward\.qk_conv = 1\.5: expected less"),
        (("splits", "backward", "qk_conv"), -0.1, r"qk_conv = -0\.1: expected greater"),
        (("step_seconds", "optimizer"), -1.0, r"optimizer = -1\.0: expected greater"),
        (("layers", "ttt-linear"), {}, r"layers\.ttt-linear: no activity costs anything"),
        (("kinds",), [], r"kinds = \[\]: expected the kind"),
    ],
)
def test_values_that_no_machine_has(tmp_path, keys, value, message):
    file, whole = tmp_path / "costs.json", json.loads(assumed("cpu", config()).to_json())
    at = whole["costs"]
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    file.write_text(json.dumps(whole))
    with pytest.raises(ConfigError, match=message) as error:
        load(file)
    assert str(error.value).startswith(f"{file}: ")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(value):
    whole = json.loads(assumed("cpu", config()).to_json())
    whole["costs"]["layers"]["ttt-linear"]["forward.project"]["per_token"] = value
    with pytest.raises(
        ValueError, match=r"project\.per_token = (nan|inf): expected a finite number"
    ):
        Costs.from_json(whole)


def test_a_source_cannot_steer_a_terminal(tmp_path):
    costs = replace(assumed("cpu", config()), source="a\n\x1b[31mred\x9b" + "x" * 5000)
    file = tmp_path / "costs.json"
    file.write_text(costs.to_json())
    source = load(file).source
    assert source.startswith("a  [31mred x")
    assert source.isprintable()
    assert len(source) <= 1003


def test_shares_in_another_order_leave_no_negative_compute():
    costs = simple_costs()
    costs = replace(costs, splits={"forward": {"pre_conv": 0.9, "qk_conv": 0.1}})
    programs = Programs((PARTS, PARTS), costs, labels=True)
    steps = programs.get(Run.FORWARD, range(2), 16, True, True, True).steps
    assert min(step.seconds for step in steps) >= 0
