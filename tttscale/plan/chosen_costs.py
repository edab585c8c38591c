"""Which costs a command computes with: those of `--costs FILE`, measured ones, or a GPU's assumptions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.model.architecture import SHOWN, TTTConfig
from tttscale.model.registry import names_of
from tttscale.plan.costs import Costs, assumed, load

MEASURED = Path("costs.json")
"""What `tttscale bench step --calibrate` writes, and `--gpu measured` reads."""
_ANY_NUMBER = frozenset({"num_hidden_layers", "ttt_layer_type"})
"""Fields that may differ from those of the measured model: costs are those of a layer of a kind."""
_SAID = frozenset({"parallel.threads"})
"""Keys that may differ with a word about it: null is another number on another machine, and none on a GPU."""


def chosen_costs(gpu: str, file: Path | None, config: Config) -> Costs:
    """Costs for a run.

    Args:
        gpu: a name in `gpus.GPUS`, or "measured" for the file `costs.json`.
        file: costs to be read instead.
        config: of the run.

    Raises:
        ConfigError: nothing is assumed of this GPU, or the file does not fit the run.
    """
    if file is None and gpu != "measured":
        return assumed(gpu, config)
    file = file or MEASURED
    costs, model = load(file), config.architecture()
    names = tuple(names_of(model))
    told = costs.facts.get("of")
    told = told if isinstance(told, dict) else {}
    differ = {
        k: (told[k], v) for k, v in what_costs_depend_on(config).items() if told.get(k, v) != v
    }
    for key, (then, now) in differ.items():
        if key not in _SAID:
            raise ConfigError(
                f"{file} was measured with {key} = {_yaml(then)}, and the run has {_yaml(now)}. Measure it "
                "again: `tttscale bench step --calibrate CONFIG`"
            )
    said = [
        f"; measured with {key} = {_yaml(then)}, and the run has {_yaml(now)}"
        for key, (then, now) in differ.items()
    ]
    if missing := sorted(set(names) - set(costs.layers)):
        raise ConfigError(
            f"{file} holds no costs of {', '.join(missing)}, which model.pattern has. Measure them: "
            "`tttscale bench step --calibrate CONFIG`"
        )
    return replace(costs, source="".join([costs.source, *said]), kinds=names)


def what_costs_depend_on(config: Config) -> dict[str, Any]:
    """Keys and values of a run for which costs per layer and token were measured."""
    model: TTTConfig = config.architecture()
    shape = {f"model.{name}": getattr(model, name) for name in sorted(SHOWN - _ANY_NUMBER)}
    others = {
        "train.precision": config.train.precision,
        "parallel.batch": config.parallel.batch,
        "parallel.threads": config.parallel.threads,
        "train.compile": config.train.compile,
        "model.options": config.model.options,
    }
    return shape | others


def _yaml(value: Any) -> str:
    """A value as a configuration has it, of bounded length."""
    return (
        f"{json.dumps(value):.200}"
        if value is None or isinstance(value, dict)
        else f"{value!s:.200}"
    )
