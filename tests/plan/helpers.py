"""Costs and schedules that can be checked by hand."""

from tttscale.plan.costs import Costs, Line, StepCosts, Wire
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Schedule

PARTS = ("pre_conv", "qk_conv", "state")


def layer_lines(project=1.0, advance=0.25, readout=0.5, finish=2.0, backward=2.0, per_token=0.0):
    forward = {"project": project, "advance": advance, "readout": readout, "finish": finish}
    lines = {f"forward.{name}": Line(value, per_token) for name, value in forward.items()}
    return lines | {
        f"backward.{name}": Line(backward * value, backward * per_token)
        for name, value in forward.items()
    }


def simple_costs(layers=2, wire=(0.0, 1e12), send=0.0, embed=0.0, head=0.0, **lines):
    kind = layer_lines(**lines) | {f"{run}.send": Line(send, 0) for run in ("forward", "backward")}
    return Costs(
        source="by hand",
        kinds=("layer",) * layers,
        layers={"layer": kind},
        ends={
            "forward.embed": Line(embed, 0),
            "backward.embed": Line(2 * embed, 0),
            "forward.head": Line(head, 0),
            "backward.head": Line(head / 2, 0),
        },
        same_host=Wire(*wire),
        between_hosts=Wire(10 * wire[0], wire[1] / 10),
        step_seconds=StepCosts(Wire(0.0, 1e12), Wire(0.0, 1e12), 0.0, 0.0),
    )


def schedule(kind="striped", chunks=4, ranks=2, sequences=1, layers=2, parts=PARTS, tokens=16):
    layout = Layout(kind, chunks * tokens, tokens, ranks, sequences)
    return Schedule(layout, (parts,) * layers)
