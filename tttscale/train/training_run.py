"""A training run of one rank: building its parts, announcing it, running it.

All ranks take the same steps in the same order. What several of them do together (marked "all ranks" below)
succeeds on all of them or fails on all of them, so that none waits for another that has given up.
"""

import dataclasses
import gc
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tttscale import codes
from tttscale.cluster.interrupts import SaveRequests
from tttscale.cluster.ranks import Ranks
from tttscale.cluster.torchelastic import tell_torchrun
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.windows.mixture import Mixture, open_mixture
from tttscale.errors import NumericsError
from tttscale.scan.sweep import Sweeps
from tttscale.scan.timeline import Activity
from tttscale.supervise.page import Phase, enter, say
from tttscale.train import build
from tttscale.train.attempt import RunAttempt
from tttscale.train.checkpoint.compatibility import check_compatible, start_notices
from tttscale.train.checkpoint.manager import Checkpoint, CheckpointManager, Saved
from tttscale.train.checkpoint.snapshot import TrainingState
from tttscale.train.description import describe
from tttscale.train.divergence import Divergence
from tttscale.train.engine import Engine
from tttscale.train.left_out import LeftOut
from tttscale.train.non_finite import StepError
from tttscale.train.on_divergence import OnDivergence, WayBack
from tttscale.train.recorder import NullRecorder, Recorder, RunRecorder, check_sinks
from tttscale.train.replicas import Replicas
from tttscale.train.run_folder import check_folder, run_folder
from tttscale.train.run_plan import RunPlan
from tttscale.train.schedules import schedule_notices
from tttscale.train.stragglers import Stragglers
from tttscale.train.trainer import Evaluation, Trainer
from tttscale.train.ways import kept

SAVED_ON_REQUEST = codes.SAVED.number
"""Exit code after SIGUSR1: the same command, started again, resumes."""


@dataclass(frozen=True)
class RunParts:
    """What a training run consists of."""

    config: Config
    mesh: Mesh
    tokens: Mixture
    recorder: Recorder
    checkpoints: CheckpointManager
    divergence: Divergence
    resumed: Checkpoint | None
    """The checkpoint that the run resumes from."""
    sweeps: Sweeps
    """Training sweeps over the model."""
    evaluation_sweeps: Sweeps | None
    """Sweeps over this replica's held-out windows; None if it has none."""
    engine: Engine
    trainer: Trainer
    notices: tuple[str, ...]
    """Lines for the console about how the parts were built."""
    ranks: Ranks
    """Who this process is."""
    on_divergence: OnDivergence
    replicas: Replicas
    stragglers: Stragglers

    @property
    def done(self) -> int:
        """Steps done before this start."""
        return 0 if self.resumed is None else self.resumed.manifest.step


class TrainingRun:
    """A run that is built; it is announced, then run once."""

    def __init__(self, parts: RunParts) -> None:
        self.parts = parts
        self._plan: RunPlan | None = None

    @classmethod
    def build(
        cls, config: Config, ranks: Ranks, attempt: RunAttempt | None = None
    ) -> "TrainingRun":
        """Build the parts of a run; steps and checkpoints of an earlier start stay as they are.

        Args:
            config: the run's.
            ranks: this process's place.
            attempt: where the start is noted; None: nowhere.

        Raises:
            TTTScaleError: of any kind; what a single rank can find out comes first.
        """
        # 1. Each rank alone: the run's folder, the stores, the device.
        if ranks.rank == 0:
            check_folder(config)
            check_sinks(config)
        tokens = open_mixture(config)
        device = build.choose_device(config, ranks)
        build.prepare_host(config, ranks, device)
        # 2. All ranks: meet, and compare configurations and stores.
        _print_waiting(ranks)
        mesh = build.connect(config, ranks, device)
        build.check_same_stores(mesh, tokens)
        # 3. All ranks: find the checkpoint to resume from, and whether it fits.
        left_out = LeftOut(mesh, run_folder(config))
        config = left_out.applied(config)
        checkpoints = CheckpointManager(config, mesh, run_folder(config), ranks.local_world_size)
        resumed = checkpoints.find()
        if resumed is not None:
            found = check_compatible(resumed, config, tokens)
        else:
            found = start_notices(config, tokens)
        divergence = Divergence(config, mesh, run_folder(config), resumed)
        divergence.refuse()
        if attempt is not None:
            found += attempt.check(mesh, resumed)
        # 4. Rank 0: take the run's folder, and say what was found.
        found = checkpoints.notices + found + schedule_notices(config.train, config.model)
        recorder: Recorder = NullRecorder()
        if ranks.rank == 0:
            recorder = RunRecorder(config, tokens, resumed, found)
            if attempt is not None:
                attempt.begin(resumed)
        say("folder", str(run_folder(config).absolute()))
        with _closed_on_error(recorder):
            # 5. All ranks: the checkpoints' folder, and how products are computed.
            checkpoints.check_folder()
            notices = build.choose_products(mesh, device, resumed)
            # 6. The model, its sweeps, and (all ranks) the optimizer.
            parts = RunParts(
                config=config,
                mesh=mesh,
                tokens=tokens,
                recorder=recorder,
                checkpoints=checkpoints,
                divergence=divergence,
                resumed=resumed,
                notices=notices,
                ranks=ranks,
                on_divergence=OnDivergence(config, left_out),
                stragglers=Stragglers(mesh),
                **_trained(config, ranks, mesh, device, tokens, resumed),
            )
            # 7. All ranks: room on the disk for the checkpoints to come.
            parameters = sum(p.numel() for p in parts.sweeps.model.parameters())
            checkpoints.check_room(parameters, parts.done)
        return cls(parts)

    def announce(self) -> None:
        """Say on the console what will run, and how, and what it is planned to take.

        Raises:
            LaunchError: memory will not suffice.
        """
        parts = self.parts
        with _closed_on_error(parts.recorder):
            lines = describe(parts.config, parts.mesh, parts.sweeps, parts.tokens)
            plan = RunPlan(
                parts.config, parts.mesh, parts.sweeps.device, parts.ranks.local_world_size
            )
            for line in [*parts.notices, *lines, plan.line()]:
                parts.recorder.log(line)
            if (warning := plan.check()) is not None:
                parts.recorder.log(warning)
            self._plan = plan

    def run(self, requests: SaveRequests) -> int:
        """Run all steps that are left, with held-out losses and checkpoints; write the final weights.

        Returns:
            The exit code: 0, or SAVED_ON_REQUEST.

        Raises:
            TTTScaleError: of any kind; a NumericsError comes with advice.
        """
        recorder, mesh = self.parts.recorder, self.parts.mesh
        saves = self.parts.config.checkpoint.every > 0
        code = None
        try:
            with requests.also_sigterm() if saves else nullcontext():
                while code is None:
                    self._warm_up()
                    self._archive_later_steps()
                    code = self._steps_or_roll_back(requests)
        except NumericsError as error:
            raise self.parts.divergence.explained(error) from None
        finally:
            recorder.close()
        if code:
            mesh.gather([0.0])  # a launcher ends all ranks once one has ended with a code
        mesh.close()
        return code

    def _warm_up(self) -> None:
        """Compile before the first step, so that all ranks compile for the same lengths."""
        sweeps, evaluation = self.parts.sweeps, self.parts.evaluation_sweeps
        if not build.wants_compile(self.parts.config, sweeps.device):
            return
        self.parts.recorder.log(
            "train.compile: compiling; the first time this takes a minute or two"
        )
        build.warm_up(sweeps)
        if evaluation is not None and evaluation.batch != sweeps.batch:
            build.warm_up(evaluation)

    def _archive_later_steps(self) -> None:
        """Move away what an earlier start has left of the steps to come.

        Not before everything else has succeeded: a start that fails changes nothing.
        """
        parts = self.parts
        if parts.resumed is not None:
            for notice in parts.checkpoints.archive_later(parts.resumed):
                parts.recorder.log(notice)
        parts.recorder.truncate_after(parts.done)

    def _steps_or_roll_back(self, requests: SaveRequests) -> int | None:
        """Run all steps that are left; or get ready to run them from an earlier checkpoint: None."""
        try:
            with self.parts.checkpoints.finished(self._report_saved):
                return self._steps(requests)
        except NumericsError as error:
            enter(Phase.BUILD)
            parts = self.parts
            way = parts.on_divergence.roll_back(error, parts.config, parts.checkpoints)
            del parts
        self._roll_back(way)  # the error is gone, and with it what it held of the step
        return None

    def _roll_back(self, way: WayBack) -> None:
        """Build model, sweeps and optimizer again from a checkpoint, as a restart would."""
        old, tokens, device = self.parts, self.parts.tokens, self.parts.sweeps.device
        config, checkpoint = way.config, way.checkpoint
        for line in way.lines:
            old.recorder.log(line)
        old.recorder.reconfigure(config)
        old.checkpoints.reconfigure(config)
        fields = {field.name: getattr(old, field.name) for field in dataclasses.fields(old)}
        for name in ("sweeps", "evaluation_sweeps", "engine", "trainer", "replicas"):
            del fields[name]
        del self.parts, old
        gc.collect()  # before the new ones are made
        mesh = fields["mesh"]
        fields |= {
            "config": config,
            "resumed": checkpoint,
            "divergence": Divergence(config, mesh, run_folder(config), checkpoint),
            **_trained(config, fields["ranks"], mesh, device, tokens, checkpoint),
        }
        self.parts = RunParts(**fields)

    def _step(self, step: int) -> dict[str, Any]:
        """Run a step, or skip it if its numbers cannot be used and that is asked for; return its record."""
        parts = self.parts
        try:
            record = parts.trainer.step(step, parts.tokens.train)
        except StepError as error:
            line = parts.on_divergence.skip(error)
            parts.recorder.log(line)
            return {"step": step, "skipped": True, "tokens": parts.trainer.tokens}
        parts.on_divergence.passed()
        return record

    def _steps(self, requests: SaveRequests) -> int:
        parts, evaluation = self.parts, None
        steps = parts.config.train.steps
        for step in range(parts.done + 1, steps + 1):
            enter(Phase.STEP, step)
            record = self._step(step)
            evaluation = self._evaluate() if self._evaluates(step) else None
            enter(Phase.RECORD)
            parts.trainer.timeline.begin(Activity.RECORD)
            if evaluation is not None:
                record["heldout_loss"] = evaluation.loss
            parts.recorder.step(record)
            if evaluation is not None:
                parts.recorder.evaluated(evaluation.positions)
            if not parts.on_divergence.has_skipped:
                parts.divergence.passed(step)
            if step == parts.done + 1:
                self._announce_kept_chunks()
                if step < steps:  # the last one is saved without a copy
                    parts.checkpoints.make_room(self._state(step))
            if (
                self._plan
                and "skipped" not in record
                and (line := self._plan.compared(record, parts.sweeps.keep.chunks))
            ):
                parts.recorder.log(line)
            asked = self._asked_to_save(requests) if step < steps else None
            due = self._saves(step, asked is not None)
            parts.replicas.check(step, before_save=due)
            saved = due and self._save(step, wait=bool(asked) or step == steps)
            if line := parts.stragglers.line(record):
                parts.recorder.log(line)
            if asked and saved:  # if the disk refused: again after the next step
                self._announce_saved_end(asked)
                return SAVED_ON_REQUEST
        if evaluation is None and self._evaluates(steps):  # it ended between its last step and here
            evaluation = self._evaluate()
        enter(Phase.CLOSE)
        positions = None if evaluation is None else evaluation.positions
        parts.recorder.finish(parts.sweeps.model, positions)
        return 0

    def _announce_kept_chunks(self) -> None:
        """Say how many chunks keep their activations; the first step has measured one."""
        sweeps = self.parts.sweeps
        own_chunks = len(sweeps.schedule.layout.own(sweeps.transport.rank))
        if line := kept(self.parts.config, sweeps.keep, own_chunks):
            self.parts.recorder.log(line)

    def _announce_saved_end(self, asked: signal.Signals) -> None:
        auto = self.parts.config.checkpoint.resume == "auto"
        how = "" if auto else " with checkpoint.resume=auto"
        text = f"{asked.name}: saved and ended; the same command{how} resumes from here"
        self.parts.recorder.log(text)
        tell_torchrun(text)

    def _evaluates(self, step: int) -> bool:
        every = self.parts.config.evaluate.every
        due = step == self.parts.config.train.steps or (every > 0 and step % every == 0)
        return due and self.parts.tokens.heldout is not None

    def _evaluate(self) -> Evaluation:
        parts = self.parts
        enter(Phase.EVALUATE)
        parts.trainer.timeline.begin(Activity.EVALUATE)
        assert parts.tokens.heldout is not None
        evaluation = parts.trainer.evaluate(
            parts.tokens.heldout, parts.evaluation_sweeps, parts.config.evaluate.sequences
        )
        # The training loss is finite, so whether to go on is for a person to judge.
        if not math.isfinite(evaluation.loss):
            parts.recorder.log("WARNING: the held-out loss is not finite; the run continues")
        return evaluation

    def _asked_to_save(self, requests: SaveRequests) -> signal.Signals | None:
        """Return the signal by which any rank was asked to save and end; without checkpoints none counts.

        All ranks learn here, too, what came of a save in the background, once all of them know it.
        """
        checkpoints = self.parts.checkpoints
        if self.parts.config.checkpoint.every == 0:
            return None
        own = [float(requests.heard or 0), float(checkpoints.ended())]
        heard, ended = self.parts.mesh.gather(own).T
        if ended.all() and (saved := checkpoints.settle()):
            self._report_saved(saved)
        number = int(heard.max())
        return signal.Signals(number) if number else None

    def _saves(self, step: int, asked: bool) -> bool:
        """Return whether to save after a step: not after one that was skipped, unless it is the last."""
        answers = self.parts.on_divergence
        wanted = asked or answers.owes_checkpoint or self.parts.checkpoints.due(step)
        answers.owes_checkpoint = (
            wanted and answers.has_skipped and step < self.parts.config.train.steps
        )
        return wanted and not answers.owes_checkpoint

    def _save(self, step: int, wait: bool) -> bool:
        """Save, or begin to; one save after the other.

        Args:
            step: the last one.
            wait: until it is done, since the run ends after it.

        Returns:
            Whether it is done.
        """
        parts, checkpoints = self.parts, self.parts.checkpoints
        enter(Phase.CHECKPOINT)
        parts.trainer.timeline.begin(Activity.CHECKPOINT)
        if not wait and (line := checkpoints.overtaken(step)):
            parts.recorder.log(line)
        if earlier := checkpoints.settle():
            self._report_saved(earlier)
        save = checkpoints.save if wait else checkpoints.begin
        if saved := save(self._state(step), parts.recorder.sync):
            self._report_saved(saved)
        return saved is not None and saved.done

    def _state(self, step: int) -> TrainingState:
        parts = self.parts
        return TrainingState(
            step=step,
            tokens=parts.trainer.tokens,
            model=parts.sweeps.model,
            engine=parts.engine,
            stores=parts.tokens,
            wandb_id=parts.recorder.wandb_id,
        )

    def _report_saved(self, saved: Saved) -> None:
        if saved.done:
            self.parts.recorder.saved(saved.step)
        self.parts.recorder.log(saved.line)


def _trained(
    config: Config,
    ranks: Ranks,
    mesh: Mesh,
    device: torch.device,
    tokens: Mixture,
    resumed: Checkpoint | None,
) -> dict[str, Any]:
    """Build what a checkpoint restores, as fields of `RunParts`: model, sweeps, optimizer. All ranks."""
    model = build.build_model(config, device, resumed.folder if resumed else None)
    parameters = sum(p.numel() for p in model.parameters())
    keep = build.keep_policy(config, ranks, device, parameters)
    sweeps = build.training_sweeps(config, model, mesh, keep)
    evaluation_sweeps = build.evaluation_sweeps(config, model, mesh, tokens)
    engine = build.build_engine(config, model, mesh)
    trainer = Trainer(config, mesh, model, sweeps, engine)
    if resumed is not None:
        resumed.restore(engine)
        trainer.tokens = resumed.manifest.tokens
    return {
        "sweeps": sweeps,
        "evaluation_sweeps": evaluation_sweeps,
        "engine": engine,
        "trainer": trainer,
        "replicas": Replicas(config.train.check_replicas_every, mesh, model),
    }


def _print_waiting(ranks: Ranks) -> None:
    if ranks.rank == 0 and ranks.world_size > 1:
        where = f"{ranks.master_addr}:{ranks.master_port}"
        print(f"waiting for all {ranks.world_size} ranks at {where}", file=sys.stderr, flush=True)


@contextmanager
def _closed_on_error(recorder: Recorder) -> Iterator[None]:
    """Close the recorder if the block fails; otherwise it stays open for the run."""
    try:
        yield
    except BaseException:
        recorder.close()
        raise
