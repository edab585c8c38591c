"""A plan as text."""

from tttscale.observe import human
from tttscale.plan.options import Option
from tttscale.plan.planner import Plan

_GIB = 2**30
_MIB = 2**20


def text_of(plan: Plan) -> str:
    """What `tttscale plan` prints."""
    sections = [
        [*_head(plan), *_verdict(plan)],
        _memory(plan),
        _time(plan),
        _best(plan),
        _alternatives(plan),
        _nodes(plan),
        [f"Costs: {plan.costs.source}."],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(plan: Plan) -> list[str]:
    target, config = plan.target, plan.config
    what = "processes" if target.device is None else target.gpu
    return [
        f"{config.run.name} on {target.nodes} node(s) with {target.per_node} {what} each: "
        f"{plan.model.parameters:,} parameters, {config.data.sequence_length:,} tokens a sequence, "
        f"{config.train.sequences_per_step} sequence(s) a step",
        describe(plan.asked),
    ]


def describe(option: Option) -> str:
    """A choice in words."""
    choice = option.choice
    kept = "all" if choice.kept >= option.own_chunks else f"{choice.kept:.4g}"
    return (
        f"{option.replicas} replica(s) x {choice.sequence} sequence rank(s), {choice.layout}, chunks of "
        f"{choice.chunk_length:,}, {kept} of {option.own_chunks} kept, ZeRO {choice.stage}"
    )


def _verdict(plan: Plan) -> list[str]:
    asked = plan.asked
    sizes = f"{_size(asked.memory.peak)} of {_size(asked.limit_bytes)} a rank"
    lines = [f"It fits: {sizes}." if asked.fits else f"It does not fit: {sizes}."]
    if asked.memory.unknown:
        lines.append(f"Not counted: activations of {'; '.join(asked.memory.unknown)}.")
    if asked.fits:
        return lines
    if plan.change is None:
        return [*lines, "No change of the parallel keys or ZeRO fits; take more or larger GPUs."]
    keys, option = plan.change
    return [
        *lines,
        f"The smallest change that fits: {' '.join(keys)} ({_size(option.memory.peak)}, "
        f"{_seconds(option)} a step).",
    ]


def _memory(plan: Plan) -> list[str]:
    memory = plan.asked.memory
    cpu = plan.target.device is None
    rows = [
        ("parameters, fp32", memory.parameters),
        ("gradients, fp32", memory.gradients),
        ("optimizer and its copies", memory.optimizer),
        ("parameters in the compute dtype", memory.casts),
        ("carries between chunks", memory.carries),
        ("inputs of layers (contiguous)", memory.layer_inputs),
        ("activations of one chunk", memory.live_chunk),
        ("activations of all kept chunks", memory.kept_chunks),
        ("while computing, beside them", memory.transients),
        ("buffer of the reduction", memory.bucket),
        ("copy for checkpoints", memory.checkpoint_copy),
        ("process and libraries" if cpu else "CUDA's context (assumed)", memory.base),
        ("holes in the heap", memory.holes),
        ("peak of the sweeps (tensors)", memory.sweeps_peak),
        ("peak of the update (tensors)", memory.update_peak),
        ("peak", memory.peak),
    ]
    return ["Memory of a rank", *(f"  {name:<34}{_size(n):>12}" for name, n in rows if n)]


def _time(plan: Plan) -> list[str]:
    asked, parts = plan.asked, plan.asked.parts
    flops = plan.flops
    counted = (
        f"not counted: {'; '.join(flops.unknown)}"
        if flops.unknown
        else f"{human(flops.model_per_token)}FLOP a token, {human(flops.hardware_per_token)}FLOP with "
        "what is computed twice"
    )
    update = parts["reduce"] + parts["optimizer"] + parts["gather"]
    mfu = "unknown device" if asked.mfu is None else f"{asked.mfu:.1%}"
    return [
        "Time",
        f"  {'model FLOPs':<34}{counted}",
        f"  {'step':<34}{_seconds(asked)}: sweeps {asked.sweep_seconds:.3g} s, update {update:.3g} s, "
        f"overhead {parts['overhead']:.3g} s",
        f"  {'tokens':<34}{human(asked.tokens_per_second)} a second",
        f"  {'model FLOPs utilisation (MFU)':<34}{mfu}",
        f"  {'ranks idle':<34}{asked.sweeps_idle_fraction:.1%} of the sweeps; messages hold up "
        f"{asked.exposed_messages_seconds:.3g} s",
        f"  {'largest useful parallel.sequence':<34}{asked.useful_ranks} (work of a sequence / its serial "
        "chain)",
    ]


def _best(plan: Plan) -> list[str]:
    best, asked = plan.best, plan.asked
    if best is None or best.choice == asked.choice:
        return ["The configuration is the best that was found."] if best else []
    keys = best.choice.keys(asked.choice)
    if best.choice.kept != asked.choice.kept:
        keys.append(f"parallel.keep_chunks={best.choice.kept:g}")
    gain = f"{1 - best.step_seconds / asked.step_seconds:.0%} less time" if asked.fits else "fits"
    return [
        f"Best found ({gain}): {' '.join(keys)}",
        f"  {describe(best)}: {_seconds(best)} a step, {human(best.tokens_per_second)} tokens a second, "
        f"{_size(best.memory.peak)} a rank",
    ]


def _alternatives(plan: Plan) -> list[str]:
    rows = [("change of one key", "step", "time", "peak", "fits", "idle")]
    rows += [
        (
            key,
            _seconds(option),
            f"{option.step_seconds / plan.asked.step_seconds - 1:+.0%}",
            _size(option.memory.peak),
            "yes" if option.fits else "no",
            f"{option.sweeps_idle_fraction:.1%}",
        )
        for key, option in plan.alternatives
    ]
    return _table(rows)


def _nodes(plan: Plan) -> list[str]:
    rows = [("nodes", "best choice", "step", "tokens/s", "MFU", "peak")]
    for nodes, option in plan.nodes:
        if option is None:
            rows.append((str(nodes), "nothing fits, or the step cannot be divided", "", "", "", ""))
            continue
        choice = option.choice
        rows.append(
            (
                str(nodes),
                f"{option.replicas} x {choice.sequence}, chunks of {choice.chunk_length:,}, "
                f"{choice.kept:g} kept, ZeRO {choice.stage}",
                _seconds(option),
                human(option.tokens_per_second),
                "" if option.mfu is None else f"{option.mfu:.1%}",
                _size(option.memory.peak),
            )
        )
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _seconds(option: Option) -> str:
    return f"{option.step_seconds:.3g} s"


def _size(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= 10 * _GIB else f"{size / _MIB:,.0f} MiB"
