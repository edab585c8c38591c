"""`tttscale eval`: measure a model on all ranks of a job, and write what was found."""

import sys
from pathlib import Path

import torch

from tttscale import __version__
from tttscale.cluster.ranks import Ranks
from tttscale.comm import mesh as meshes
from tttscale.errors import LaunchError
from tttscale.evaluate.measure import Evaluation
from tttscale.evaluate.options import Options, check_tasks
from tttscale.evaluate.report import check_report, summary, write_report
from tttscale.evaluate.subject import Subject
from tttscale.observe.guard import print_result
from tttscale.train import cpu_products
from tttscale.train.memory import tune_allocator


def evaluate(path: Path, ranks: Ranks, options: Options) -> int:
    """Evaluate as one rank of the job.

    Args:
        path: a run's folder, or a model's.
        ranks: who this process is.
        options: what to measure, and how.

    Returns:
        The exit code: 0.

    Raises:
        TTTScaleError: of any kind; what a single rank can find out comes first.
    """
    check_tasks(options.tasks)
    out = options.out or path / "eval"
    if ranks.rank == 0:
        check_report(out)
    device = _device(ranks)
    subject = Subject.load(path, device, options.tokenizer)

    def say(text: str) -> None:
        """Say what is done meanwhile, on rank 0."""
        if ranks.rank == 0:
            print(text, file=sys.stderr, flush=True)

    if ranks.world_size > 1:
        say(f"waiting for all {ranks.world_size} ranks at {ranks.master_addr}:{ranks.master_port}")
    agreed = {"version": __version__, "the model": subject.fingerprint, **options.agreed()}
    mesh = meshes.start(ranks, ranks.world_size, device, agreed=agreed)
    if device.type == "cpu":
        tune_allocator()
        cpu_products.choose(mesh)
    for notice in subject.notices:
        say(notice)
    say(f"model {subject.folder}, {ranks.world_size} rank{'s' * (ranks.world_size > 1)}")
    evaluation = Evaluation(subject, mesh, options)
    results = {task: evaluation.measure(task) for task in options.tasks}
    if ranks.rank == 0:
        report = write_report(out, subject.describe(), results)
        print_result(summary(report, results, out))
    mesh.gather([0.0])  # no rank leaves while another still works
    mesh.close()
    return 0


def _device(ranks: Ranks) -> torch.device:
    """Return this rank's GPU, or the CPU where there is none.

    Raises:
        LaunchError: more ranks on this host than GPUs.
    """
    gpus = torch.cuda.device_count()
    if not gpus:
        torch.set_num_threads(ranks.cores())
        return torch.device("cpu")
    if ranks.local_rank >= gpus:
        raise LaunchError(
            f"local rank {ranks.local_rank} needs a GPU, and this host has {gpus}. Start fewer processes, or "
            "hide the GPUs to compute on CPUs (CUDA_VISIBLE_DEVICES=)."
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)
