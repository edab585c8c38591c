"""`tttscale train`: build a run, announce it, run it."""

from tttscale.cluster.interrupts import SaveRequests
from tttscale.cluster.ranks import Ranks
from tttscale.config import Config
from tttscale.supervise.page import say
from tttscale.train.build import hang_rules
from tttscale.train.training_run import TrainingRun


def train(config: Config, ranks: Ranks) -> int:
    """Train as one rank of the job.

    Returns:
        The exit code: 0, or SAVED_ON_REQUEST.

    Raises:
        TTTScaleError: of any kind, before anything heavy starts where possible.
    """
    say("watch", hang_rules(config).text())
    with SaveRequests() as requests:
        run = TrainingRun.build(config, ranks)
        run.announce()
        return run.run(requests)
