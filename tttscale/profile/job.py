"""What the simulator and the planner need to know of a run, from its configuration."""

import math
from collections.abc import Callable

from tttscale.config import Config
from tttscale.plan.carries import Carries
from tttscale.plan.costs import Costs
from tttscale.plan.memory import Machine, memory_plan
from tttscale.profile.advice import Job, Setting
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey


def job_of(
    config: Config,
    layout: Layout,
    costs: Costs,
    *,
    replicas: int = 1,
    ranks_per_host: int,
    gpu: bool,
    capacity_bytes: int | None = None,
) -> Job:
    """Describe a run.

    Args:
        config: of the run.
        layout: of one replica's sequences.
        costs: of every activity.
        replicas: of the job.
        ranks_per_host: neighbouring ranks that share a host.
        gpu: ranks compute on GPUs.
        capacity_bytes: memory that a rank has; None if that is not known.
    """

    def carry_bytes(tokens: int) -> Callable[[CarryKey], int]:
        """Lengths of messages when chunks have so many tokens."""
        return Carries(as_set(config, Setting(tokens, layout.kind, layout.ranks, 1))).bytes

    def memory(setting: Setting) -> int | None:
        """Predicted peak of the rank that needs most; None if some layer's is not known."""
        there, world = as_set(config, setting), replicas * setting.ranks
        machine = Machine.of(there, gpu)
        kept = math.ceil(setting.most_kept)
        found = memory_plan(there, world, machine, Carries(there), kept)
        return None if found.unknown else found.peak

    return Job(
        layout.length_tokens,
        layout.sequences,
        Carries(config).parts,
        carry_bytes,
        costs,
        ranks_per_host=ranks_per_host,
        alignment=config.alignment,
        memory=memory,
        capacity_bytes=capacity_bytes,
    )


def as_set(config: Config, setting: Setting) -> Config:
    """Return the run's configuration with another setting; its kept chunks stay as they are."""
    values = {
        "chunk_length": setting.chunk_tokens,
        "layout": setting.layout,
        "sequence": setting.ranks,
    }
    parallel = config.parallel.model_copy(update=values)
    return config.model_copy(update={"parallel": parallel})
