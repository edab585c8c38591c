"""What a run writes down and shows: metrics, console lines, Weights & Biases, plots."""

from tttscale.observe.console import Console, human
from tttscale.observe.metrics import MetricsLog, read_metrics
from tttscale.observe.wandb_sink import WandbSink

__all__ = ["Console", "MetricsLog", "WandbSink", "human", "read_metrics"]
