"""`tttscale train`: build a run, announce it, run it."""

import os

from tttscale.cluster.interrupts import SaveRequests
from tttscale.cluster.ranks import Ranks
from tttscale.config import Config
from tttscale.supervise.page import say
from tttscale.train.attempt import RunAttempt
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
    attempt = RunAttempt(config, ranks, os.environ)
    with SaveRequests() as requests, attempt.noted():
        run = TrainingRun.build(config, ranks, attempt)
        run.announce()
        attempt.code = run.run(requests)
    return attempt.code
