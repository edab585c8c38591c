"""`tttscale train`: set up, loop, finish."""

import sys

import torch

from tttscale.cluster.ranks import Ranks
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.components import Tokens, open_tokens
from tttscale.scan.sweep import Sweeps
from tttscale.train import setup
from tttscale.train.memory import tune_allocator
from tttscale.train.recorder import Recorder, Silent, check_folder
from tttscale.train.trainer import Evaluation, Trainer


def train(config: Config, ranks: Ranks) -> int:
    """Train as one rank of the job; returns the exit code.

    Raises:
        TTTScaleError: of any kind, before anything heavy starts where possible.
    """
    if ranks.rank == 0:
        check_folder(config)
    tokens = open_tokens(config)
    device = setup.choose_device(config, ranks)
    if device.type == "cpu":
        setup.set_threads(config, ranks)
        tune_allocator()
    if ranks.rank == 0 and ranks.world_size > 1:
        where = f"{ranks.master_addr}:{ranks.master_port}"
        print(f"waiting for all {ranks.world_size} ranks at {where}", file=sys.stderr, flush=True)
    mesh = setup.connect(config, ranks, device)
    setup.check_same_stores(mesh, tokens)
    recorder = Recorder(config, tokens) if ranks.rank == 0 else Silent()
    try:
        job = _Job(config, ranks, mesh, tokens, device, recorder)
        job.run()
    finally:
        recorder.close()
    mesh.close()
    return 0


class _Job:
    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        mesh: Mesh,
        tokens: Tokens,
        device: torch.device,
        recorder: Silent,
    ) -> None:
        self._config, self._tokens, self._recorder = config, tokens, recorder
        self.model = setup.build_model(config, device)
        share = config.train.sequences_per_step // mesh.replicas
        sweeps = setup.build_sweeps(
            config,
            self.model,
            mesh,
            sequences=share // config.parallel.batch,
            batch=config.parallel.batch,
            keep=setup.keep_policy(config, ranks, device),
        )
        mine = len(range(mesh.replica, config.evaluate.sequences, mesh.replicas))
        self._evaluation = (
            setup.build_sweeps(config, self.model, mesh, sequences=mine, batch=1) if mine else None
        )
        engine = setup.build_engine(config, self.model, mesh)
        self._trainer = Trainer(config, mesh, self.model, sweeps, engine)
        self._describe(mesh, sweeps)
        if setup.wants_compile(config, device):
            recorder.note("train.compile: compiling; the first time this takes a minute or two")
            setup.warm_up(sweeps)
            if self._evaluation is not None and self._evaluation.batch != sweeps.batch:
                setup.warm_up(self._evaluation)

    def _describe(self, mesh: Mesh, sweeps: Sweeps) -> None:
        layout, parallel = sweeps.schedule.layout, self._config.parallel
        parameters = sum(p.numel() for p in self.model.parameters())
        self._recorder.note(
            f"{self._config.run.name}: {parameters:,} parameters, "
            f"{self._config.data.sequence_length:,} tokens per sequence in {layout.chunks} chunks of "
            f"{layout.chunk_tokens:,}; {mesh.replicas} replica(s) x {parallel.sequence} sequence "
            f"rank(s), {parallel.layout}, ZeRO {self._config.zero.stage}, "
            f"{self._config.train.precision} on {sweeps.device}"
            f"{f' with {torch.get_num_threads()} thread(s) a rank' * (sweeps.device.type == 'cpu')}"
        )
        for component in self._tokens.components:
            self._recorder.note(
                f"{component.path}: {component.train.count:,} windows an epoch, "
                f"{component.train.fill:.1%} of their positions are tokens"
            )
            for split in component.splits.values():
                if split.damaged:
                    tokens = sum(end - begin for begin, end in split.damaged)
                    self._recorder.note(
                        f"{component.path}: {tokens:,} tokens of {split.name} in "
                        f"{len(split.damaged)} ranges are quarantined and read as padding"
                    )

    def run(self) -> None:
        """All steps, held-out losses on the way, the final weights."""
        steps, every = self._config.train.steps, self._config.evaluate.every
        evaluation: Evaluation | None = None
        for step in range(1, steps + 1):
            record = self._trainer.step(step, self._tokens.train)
            evaluation = None
            if self._tokens.heldout is not None and (
                step == steps or (every and step % every == 0)
            ):
                evaluation = self._trainer.evaluate(
                    self._tokens.heldout, self._evaluation, self._config.evaluate.sequences
                )
                record["heldout_loss"] = evaluation.loss
            self._recorder.step(record)
        self._recorder.finish(self.model, None if evaluation is None else evaluation.positions)
