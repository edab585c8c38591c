"""`tttscale checkpoint ...`: what checkpoints a run has, and whether they are whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tttscale.config.paths import path_argument
from tttscale.errors import CheckpointError, ConfigError
from tttscale.observe.guard import print_result

if TYPE_CHECKING:
    from tttscale.train.checkpoint.inspect import Listed, Shown, Verified

app = typer.Typer(help="Look at the checkpoints of a run.", no_args_is_help=True)

RunFolder = Annotated[
    Path, typer.Argument(parser=path_argument, help="A run's folder, such as runs/quickstart.")
]
Step = Annotated[int | None, typer.Option(min=1, help="Of this step; default: the newest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def checkpoint_list(run: RunFolder, as_json: AsJson = False) -> None:
    """List a run's checkpoints: step, time, size, tokens, loss, and what is wrong by names and sizes.

    Contents are not read: `tttscale checkpoint verify` does that.

    Example: `tttscale checkpoint list runs/quickstart`
    """
    from tttscale.train.checkpoint.inspect import RunCheckpoints
    from tttscale.train.checkpoint.inspect import as_json as plain

    checkpoints = RunCheckpoints(run)
    found = checkpoints.listed()
    if as_json:
        fields = {
            "checkpoints": [plain(one) for one in found],
            "unfinished": checkpoints.unfinished,
        }
        return _print_json(fields)
    lines = _table([_row(one) for one in found]) if found else [f"{run} has no checkpoint"]
    lines += [f"{one.step}: {one.problem}" for one in found if one.problem]
    lines += [
        f"{name}: is being written, or was left by a run that was killed"
        for name in checkpoints.unfinished
    ]
    return print_result("\n".join(lines))


@app.command("show")
def checkpoint_show(run: RunFolder, step: Step = None, as_json: AsJson = False) -> None:
    """Show one checkpoint: who wrote it how, and what has changed in the run's configuration since.

    Example: `tttscale checkpoint show runs/quickstart --step 20`
    """
    from tttscale.train.checkpoint.inspect import RunCheckpoints
    from tttscale.train.checkpoint.inspect import as_json as plain

    found = RunCheckpoints(run).shown(step)
    return _print_json(plain(found)) if as_json else print_result("\n".join(_lines(found)))


@app.command("verify")
def checkpoint_verify(
    run: RunFolder,
    step: Step = None,
    every: Annotated[bool, typer.Option("--all", help="All checkpoints.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a checkpoint and compare it with the digests that were written with it.

    Exit codes: 0 all is whole; 66 something is damaged or missing.

    Example: `tttscale checkpoint verify runs/quickstart --all`
    """
    from tttscale.data.progress import Progress, shown_progress
    from tttscale.train.checkpoint.inspect import RunCheckpoints
    from tttscale.train.checkpoint.inspect import as_json as plain

    if every and step is not None:
        raise ConfigError(f"--all --step {step}: give one of them.")
    checkpoints = RunCheckpoints(run)
    with shown_progress() as progress:
        found = checkpoints.verified(
            step, every, lambda done, total: progress(Progress("verify", done, total))
        )
    if as_json:
        _print_json({"checkpoints": [plain(one) for one in found]})
    else:
        print_result("\n".join(f"{one.path}: {_verdict(one)}" for one in found))
    if problems := [problem for one in found for problem in one.problems]:
        raise CheckpointError(
            f"{'; '.join(problems)}. A run skips a damaged checkpoint for the one before; "
            "checkpoint.resume=N resumes from another."
        )


def _row(one: "Listed") -> dict[str, str]:
    from tttscale.observe import human
    from tttscale.train.checkpoint.inspect import shown_time

    return {
        "step": f"{one.step:,}",
        "written": shown_time(one.written_at),
        "size": "" if one.size_bytes is None else f"{human(one.size_bytes, 1024)}B",
        "tokens": "" if one.tokens is None else human(one.tokens),
        "loss": "" if one.loss is None else f"{one.loss:.4f}",
        "files": "damaged" if one.problem else "complete",
    }


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    header = {key: key for key in rows[0]}
    return [
        "  ".join(text.rjust(widths[key]) for key, text in row.items()) for row in (header, *rows)
    ]


def _lines(found: "Shown") -> list[str]:
    from tttscale.observe import human
    from tttscale.train.checkpoint.inspect import shown_time

    listed, parallel = found.listed, found.parallel
    ranks = found.optimizer_ranks
    how = f"{ranks} rank(s)" if ranks else "before the optimizer's first update"
    if found.zero_stage is not None:
        how += f", ZeRO stage {found.zero_stage}, parallel.sequence {parallel['sequence']}"
    named = {
        "checkpoint": listed.path,
        "written": f"{shown_time(listed.written_at)} by {how}",
        "steps": f"{listed.step:,}, with {found.updates:,} updates",
        "tokens": "" if listed.tokens is None else f"{listed.tokens:,}",
        "loss": "not in metrics.jsonl" if listed.loss is None else f"{listed.loss:.6f}",
        "size": f"{human(listed.size_bytes or 0, 1024)}B",
        "wandb": found.wandb_id or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in found.versions.items()),
        "files": listed.problem or "all there, with their sizes",
    }
    lines = [f"{name:<12}{text}" for name, text in named.items() if text]
    lines += [f"{'':<12}{name:<32}{size:>16,} bytes" for name, size in found.files.items()]
    lines += [
        f"{name} is {version} here; last digits may differ"
        for name, version in found.versions_now.items()
    ]
    if found.changed:
        lines.append("keys that differ in the run's config.yaml now:")
        lines += [
            f"  {key} = {_unset(then)} then, {_unset(now)} now"
            for key, (then, now) in found.changed.items()
        ]
    elif not found.notes:
        lines.append("the run's config.yaml is as it was then")
    return lines + found.notes


def _unset(value: str | None) -> str:
    return "unset" if value is None else value


def _verdict(one: "Verified") -> str:
    from tttscale.observe import human

    return "damaged" if one.problems else f"whole ({human(one.size_bytes, 1024)}B read)"


def _print_json(fields: dict[str, Any]) -> None:
    print_result(json.dumps(fields, indent=1))
