"""`tttscale doctor`: each rank looks at itself, then all look at each other."""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from tttscale.cluster.ranks import Ranks
from tttscale.config import Config, check_world
from tttscale.doctor import machine, software
from tttscale.doctor.deadline import Deadline
from tttscale.doctor.findings import Check, Finding, Level, problem, run_check
from tttscale.doctor.report import Report
from tttscale.errors import ConfigError, LaunchError, PeerError, TTTScaleError
from tttscale.packages import one_line
from tttscale.scrub import scrubbed

_HEAD_DIM, _MINI_BATCH = 64, 16
_MPI_SOURCES = ("openmpi", "pmi")


def examine(
    config: Config | None,
    ranks: Ranks,
    show: Callable[[Report], None],
    seconds: float,
    trouble: str | None = None,
) -> int:
    """Look at this machine and, in a job, at all ranks; rank 0 shows what was found.

    Args:
        config: of the run that is wanted; None: defaults.
        ranks: this process's place.
        show: prints a report.
        seconds: after which what was found so far is shown.
        trouble: what is wrong with the launcher's variables.

    Returns:
        The exit code: on rank 0, 1 if there is a problem; else 0.
    """
    report = Report()

    def give_up(stage: str) -> int:
        """Show what was found so far, and at which stage the time ran out; return the exit code."""
        message = f"after {seconds:g} s the doctor was still at: {stage}"
        if ranks.rank:
            print(scrubbed(f"[rank {ranks.rank}] {message}"), file=sys.stderr)
            return 1
        remedy = "Does something hang there (a network disk, a host that is not reached)?"
        report.findings.append(("", problem(message, remedy)))
        show(report)
        return 1

    with Deadline(seconds, give_up) as deadline:
        host = socket.gethostname()
        if trouble is not None:
            report.findings.append(("", problem(trouble, "Start the job by one launcher")))
        if ranks.local_rank == 0:
            for name, check in _checks(config, ranks):
                deadline.stage = name
                report.findings += [(host, found) for found in run_check(name, check)]
        if ranks.world_size > 1:
            _together(config, ranks, report, deadline)
    if ranks.rank:
        return 0
    show(report)
    return report.exit_code


def _checks(config: Config | None, ranks: Ranks) -> Iterator[tuple[str, Check]]:
    """What each host looks at by itself, by name and in the order in which it is shown."""
    environ, on_gpu = os.environ, _has_gpu()
    device = config.train.device if config is not None else "auto"
    yield "python", software.python
    yield "tttscale", software.ourselves
    yield "torch", partial(software.package, "torch", "everything computes with it")
    needed = "it compiles the kernels for GPUs"
    yield "triton", partial(software.package, "triton", needed, needed=on_gpu)
    yield "deepspeed", partial(software.package, "deepspeed", "training needs it", _deepspeed)
    yield "zarr", partial(software.package, "zarr", "token stores need it")
    yield "MPI", partial(software.mpi, ranks.source, environ)
    yield "wandb", partial(software.wandb, *_wandb(config), environ)
    if config is not None and config.logging.tensorboard:
        why = "logging.tensorboard=true asks for it"
        yield "tensorboard", partial(software.package, "tensorboard", why)
    yield "GPUs", partial(_gpus, ranks, device, environ)
    yield "Triton's kernels", partial(_kernels, config)
    yield "compiler", partial(software.compiler, environ, on_gpu)
    runs = Path(config.run.dir if config is not None else "runs")
    yield "runs", partial(machine.disk, "runs", runs)
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tttscale"
    yield "cache", partial(machine.disk, "cache", cache)
    yield "shared memory", machine.shared_memory
    yield "memory", _memory
    threads = config.parallel.threads if config is not None else None
    yield "cores", partial(machine.cores, ranks, threads, environ)
    yield "open files", partial(machine.open_files, ranks)


def _together(config: Config | None, ranks: Ranks, report: Report, deadline: Deadline) -> None:
    """Meet the other ranks and look at the job; what fails is a finding."""
    try:
        _look_at_job(config, ranks, report, deadline)
    except Exception as error:  # a library that is broken here raises what it likes
        said = str(error) if isinstance(error, TTTScaleError) else one_line(error)
        if ranks.rank:
            print(scrubbed(f"[rank {ranks.rank}] {said}"), file=sys.stderr, flush=True)
            # Not with a code, for which a launcher would end rank 0 before it has shown its report.
            if (mesh := sys.modules.get("tttscale.comm.mesh")) is not None:
                mesh.leave(0)
        where = {LaunchError: "meet", PeerError: "stay together"}.get(type(error), "be compared")
        remedy = f"The ranks could not {where}; the message says what to change"
        report.findings.append(("", problem(said, remedy)))


def _look_at_job(config: Config | None, ranks: Ranks, report: Report, deadline: Deadline) -> None:
    from tttscale.comm.clock import clock_offsets
    from tttscale.comm.collective import on_all_ranks
    from tttscale.comm.mesh import start
    from tttscale.doctor import job, link, links

    device, carried = _device(config, ranks), _carried(config)
    sequence, doubt = _sequence(config, ranks)
    deadline.stage = "the meeting of all ranks"
    asked = config.parallel.transport if config is not None else "auto"
    agreed = {
        "parallel.sequence": str(sequence),
        "parallel.transport": asked,
        "the shapes of a carry": str(carried.shapes),
    }
    mesh = start(ranks, sequence, device, agreed)
    facts: dict[str, Any] = {
        "place": job.place(ranks, str(device)),
        "versions": software.versions(),
        "findings": [[f.level, f.what, f.remedy] for _, f in report.findings],
    }
    deadline.stage = "the exchange of what each rank found"
    rows = cast(list[dict[str, Any]], on_all_ranks(mesh, lambda: facts, LaunchError))
    deadline.stage = "the links between neighbours"
    library = "gloo" if device.type == "cpu" else "nccl"
    own = [links.measure(mesh, carried, device, library)]
    deadline.stage = "the links between neighbours over MPI"
    why_not = _why_not_mpi(asked, ranks, device, mesh)
    if sequence > 1 and why_not is None:
        over_mpi = start(ranks, sequence, device, transport="mpi")
        own.append(links.measure(over_mpi, carried, device, "mpi"))
        if over_mpi.leave_transport is not None:
            over_mpi.leave_transport()
    measured = [found for row in on_all_ranks(mesh, lambda: own, LaunchError) for found in row]
    deadline.stage = "the clocks"
    offsets = [offset.seconds for offset in clock_offsets(mesh)]
    mesh.gather([0.0])  # none leaves while another still measures
    mesh.close()
    report.places = [job.Place(*row["place"]) for row in rows]
    report.links = [link.Link(*found) for found in measured if found is not None]
    report.clock_offsets_seconds = offsets
    hosts = [place.host for place in report.places]
    report.findings = [
        (host, Finding(Level(level), what, remedy))
        for host, row in zip(hosts, rows, strict=True)
        for level, what, remedy in row["findings"]
    ]
    if ranks.rank == 0:
        of_job = (
            *job.launch(ranks, report.places),
            *([doubt] if doubt is not None else []),
            *([problem(why_not, "As it says")] if asked == "mpi" and why_not else []),
            *job.differences([row["versions"] for row in rows]),
            *job.clocks(offsets, hosts),
            *link.slow_links(report.links, hosts),
        )
        report.findings += [("", found) for found in of_job]


def _why_not_mpi(asked: str, ranks: Ranks, device: Any, mesh: Any) -> str | None:
    """Why carries cannot travel over MPI, of the first rank that has a reason; None if they can."""
    from tttscale.comm.collective import on_all_ranks
    from tttscale.comm.mpi_world import check_mpi_job

    if asked != "mpi" and ranks.source not in _MPI_SOURCES:
        return "no mpirun has started this job"

    def check() -> str | None:
        """Return what is wrong with the job, if anything."""
        try:
            check_mpi_job(ranks, device)
        except LaunchError as error:
            return str(error)
        return None

    return next((why for why in on_all_ranks(mesh, check, LaunchError) if why), None)


def _sequence(config: Config | None, ranks: Ranks) -> tuple[int, Finding | None]:
    """Ranks of a sequence; all of them where no configuration fits."""
    if config is None:
        return ranks.world_size, None
    try:
        check_world(config, ranks.world_size)
    except ConfigError as error:
        return ranks.world_size, problem(str(error), "As it says")
    return config.parallel.sequence, None


def _carried(config: Config | None) -> Any:
    """The largest part of a carry; of a usual size where no configuration says it."""
    import torch

    from tttscale.doctor.links import DEFAULT
    from tttscale.model.language_model import Block, names_of
    from tttscale.scan.carry_store import carried_bytes

    if config is None:
        return DEFAULT
    architecture = config.architecture()
    with torch.device("meta"):
        layers = [Block(architecture, name) for name in dict.fromkeys(names_of(architecture))]
    parts = [
        part._replace(dtype=part.dtype or torch.float32)
        for layer in layers
        for part in layer.carry(config.parallel.batch, config.parallel.chunk_length).values()
    ]
    return max(parts, key=carried_bytes)


def _device(config: Config | None, ranks: Ranks) -> Any:
    import torch

    asked = config.train.device if config is not None else "auto"
    if asked == "cpu" or ranks.local_rank >= torch.cuda.device_count():
        return torch.device("cpu")
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def _has_gpu() -> bool:
    try:
        import torch
    except Exception:  # a check of its own says so
        return False
    return torch.cuda.device_count() > 0


def _gpus(ranks: Ranks, device: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    if software.installed("torch") is not None:
        from tttscale.doctor.gpus import gpus

        yield from gpus(ranks, device, environ)


def _kernels(config: Config | None) -> Iterator[Finding]:
    if software.installed("torch") is None:
        return
    import torch

    from tttscale.doctor.gpus import triton

    precision = config.train.precision if config is not None else "bf16"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if config is None:
        yield from triton("linear", _HEAD_DIM, _MINI_BATCH, dtype)
    else:
        shape = config.architecture()
        yield from triton(shape.ttt_layer_type, shape.head_dim, shape.mini_batch_size, dtype)


def _deepspeed() -> None:
    from tttscale.train.deepspeed_import import load_deepspeed

    load_deepspeed("cuda" if _has_gpu() else "cpu")


def _memory() -> Iterator[Finding]:
    from tttscale.train.memory import available_bytes

    yield from machine.memory(available_bytes())


def _wandb(config: Config | None) -> tuple[str | None, str | None]:
    if config is None:
        return None, None
    return config.logging.wandb.mode, config.logging.wandb.project
