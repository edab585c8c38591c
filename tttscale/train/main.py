"""`tttscale train`: set up, loop, finish."""

import math
import sys

import torch

from tttscale.cluster.interrupts import SaveRequests
from tttscale.cluster.ranks import Ranks
from tttscale.cluster.torchelastic import tell_torchrun
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.components import Tokens, open_tokens
from tttscale.errors import NumericsError
from tttscale.scan.sweep import Sweeps
from tttscale.train import cpu_products, setup
from tttscale.train.checkpoint.checkpoints import Checkpoint, Checkpoints
from tttscale.train.checkpoint.same_run import check_same_run, remarks_on_start
from tttscale.train.divergence import Divergence
from tttscale.train.memory import tune_allocator
from tttscale.train.recorder import Recorder, Silent
from tttscale.train.run_folder import check_folder, run_folder
from tttscale.train.schedules import remarks_on
from tttscale.train.trainer import Evaluation, Trainer
from tttscale.train.ways import kept, ways

SAVED_ON_REQUEST = 75
"""Exit code after SIGUSR1: start the same command again, and it goes on."""
_ENDED = "SIGUSR1: saved and ended; the same command{} goes on from here"


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
    with SaveRequests() as requests:
        mesh = setup.connect(config, ranks, device)
        setup.check_same_stores(mesh, tokens)
        checkpoints = Checkpoints(config, mesh, run_folder(config))
        resumed = checkpoints.choose()
        if resumed is not None:
            remarks = check_same_run(resumed, config, tokens)
        else:
            remarks = remarks_on_start(config, tokens)
        divergence = Divergence(config, mesh, run_folder(config), resumed)
        divergence.refuse()
        recorder = Recorder(config, tokens, resumed) if ranks.rank == 0 else Silent()
        try:
            for remark in checkpoints.remarks + remarks + remarks_on(config.train, config.model):
                recorder.note(remark)
            checkpoints.check_folder()
            if device.type == "cpu":
                had = resumed.manifest.versions if resumed is not None else {}
                recorder.note(cpu_products.choose(mesh, before=had.get(cpu_products.KEY)))
            job = _Job(
                config, ranks, mesh, tokens, device, recorder, checkpoints, divergence, resumed
            )
            if resumed is not None:
                for remark in checkpoints.set_aside_later(resumed):
                    recorder.note(remark)
            recorder.go_on_after(job.done)
            code = job.run(requests)
        except NumericsError as error:
            raise divergence.explained(error) from None
        finally:
            recorder.close()
        if code:
            mesh.gather([0.0])  # a launcher ends all ranks once one has ended with a code
        mesh.close()
    return code


class _Job:
    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        mesh: Mesh,
        tokens: Tokens,
        device: torch.device,
        recorder: Silent,
        checkpoints: Checkpoints,
        divergence: Divergence,
        resumed: Checkpoint | None,
    ) -> None:
        self._config, self._mesh, self._tokens, self._recorder = config, mesh, tokens, recorder
        self._checkpoints, self._divergence = checkpoints, divergence
        self.model = setup.build_model(config, device, resumed.folder if resumed else None)
        share = config.train.sequences_per_step // mesh.replicas
        sweeps = setup.build_sweeps(
            config,
            self.model,
            mesh,
            sequences=share // config.parallel.batch,
            batch=config.parallel.batch,
            keep=setup.keep_policy(config, ranks, device),
        )
        heldout = config.evaluate.sequences if tokens.heldout is not None else 0
        mine = len(range(mesh.replica, heldout, mesh.replicas))
        self._evaluation = (
            setup.build_sweeps(config, self.model, mesh, sequences=mine, batch=1) if mine else None
        )
        self._engine = setup.build_engine(config, self.model, mesh)
        self._sweeps = sweeps
        self._trainer = Trainer(config, mesh, self.model, sweeps, self._engine)
        self.done = 0
        """Steps that were done before."""
        if resumed is not None:
            resumed.restore(self._engine)
            self.done, self._trainer.tokens = resumed.manifest.step, resumed.manifest.tokens
        self._describe(mesh, sweeps)
        checkpoints.check_room(sum(p.numel() for p in self.model.parameters()), self.done)
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
        compiles = setup.wants_compile(self._config, sweeps.device)
        for line in ways(self._config, sweeps.device, compiles, mesh.world_size):
            self._recorder.note(line)
        for remark in self._tokens.remarks:
            self._recorder.note(remark)
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

    def run(self, requests: SaveRequests) -> int:
        """All steps that are left, held-out losses and checkpoints on the way, the final weights.

        Returns:
            The exit code: 0, or SAVED_ON_REQUEST.
        """
        steps, evaluation = self._config.train.steps, None
        for step in range(self.done + 1, steps + 1):
            record = self._trainer.step(step, self._tokens.train)
            evaluation = self._evaluate() if self._evaluates(step) else None
            if evaluation is not None:
                record["heldout_loss"] = evaluation.loss
            self._recorder.step(record)
            self._divergence.passed(step)
            if step == self.done + 1:
                self._say_what_is_kept()
            wanted = step < steps and self._is_wanted(requests)
            saved = (wanted or self._checkpoints.due(step)) and self._save(step)
            if wanted and saved:  # if the disk refused: again after the next step
                ended = _ENDED.format(self._how_to_go_on())
                self._recorder.note(ended)
                tell_torchrun(ended)
                return SAVED_ON_REQUEST
        if evaluation is None and self._evaluates(steps):  # it ended between its last step and here
            evaluation = self._evaluate()
        self._recorder.finish(self.model, None if evaluation is None else evaluation.positions)
        return 0

    def _say_what_is_kept(self) -> None:
        """After the first step it is known how large a chunk is."""
        schedule, rank = self._sweeps.schedule, self._mesh.sequence_rank
        own_chunks = len(schedule.layout.own(rank))
        if line := kept(self._config, self._sweeps.keep, own_chunks):
            self._recorder.note(line)

    def _evaluates(self, step: int) -> bool:
        every = self._config.evaluate.every
        due = step == self._config.train.steps or (every > 0 and step % every == 0)
        return due and self._tokens.heldout is not None

    def _evaluate(self) -> Evaluation:
        assert self._tokens.heldout is not None
        evaluation = self._trainer.evaluate(
            self._tokens.heldout, self._evaluation, self._config.evaluate.sequences
        )
        if not math.isfinite(
            evaluation.loss
        ):  # the training loss is: that is for a person to judge
            self._recorder.note("WARNING: the held-out loss is not finite; the run goes on")
        return evaluation

    def _is_wanted(self, requests: SaveRequests) -> bool:
        """Whether any rank was asked to save and end; a run without checkpoints passes that over."""
        if self._config.checkpoint.every == 0:
            return False
        return bool(self._mesh.gather([float(requests.heard)]).any())

    def _how_to_go_on(self) -> str:
        auto = self._config.checkpoint.resume == "auto"
        return "" if auto else " with checkpoint.resume=auto"

    def _save(self, step: int) -> bool:
        self._recorder.sync()
        tokens, wandb_id = self._trainer.tokens, self._recorder.wandb_id
        saved = self._checkpoints.save(
            step, tokens, self.model, self._engine, self._tokens, wandb_id
        )
        if saved.done:
            self._recorder.saved(step)
        self._recorder.note(saved.line)
        return saved.done
