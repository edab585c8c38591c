"""Weights & Biases, in a thread of its own: it can neither fail a run nor delay a step."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tttscale.observe.guard import Guard, leave_behind, warn

_PENDING = 1024


class WandbSink:
    """Gives records to wandb from a thread of its own.

    Whatever goes wrong there (import, init, log, finish) becomes one warning, and the sink is off.
    If wandb falls far behind, records are dropped: metrics.jsonl has them all.
    """

    def __init__(
        self,
        config_dict: Mapping[str, Any],
        mode: str,
        project: str,
        run_dir: str | Path,
        name: str,
        run_id: str | None = None,
        finish_seconds: float = 30.0,
    ) -> None:
        """Start the thread; `mode` is offline (files in run_dir/wandb only), online or disabled.

        Args:
            config_dict: the resolved configuration, stored with the run.
            mode: offline, online or disabled.
            project: the project's name.
            run_dir: the run's folder.
            name: the run's name.
            run_id: the id by which wandb knows the run, also when it resumes; None: wandb chooses.
            finish_seconds: the longest that `finish` waits.
        """
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_PENDING)
        self._finish_seconds = finish_seconds
        self._thread: threading.Thread | None = None
        self._guard = Guard(
            "wandb is off",
            "and its metrics are in metrics.jsonl (logging.wandb.mode=disabled silences this)",
        )
        if mode == "disabled":
            return
        settings: dict[str, Any] = {"mode": mode, "project": project, "dir": str(run_dir)}
        settings |= {"name": name, "config": dict(config_dict)}
        if run_id is not None:
            settings |= {"id": run_id, "resume": "allow"}
        thread = threading.Thread(
            target=self._work, args=(settings,), name="wandb-sink", daemon=True
        )
        with self._guard():
            thread.start()
            self._thread = thread

    @property
    def active(self) -> bool:
        """Whether records still go to wandb."""
        return self._thread is not None and self._thread.is_alive()

    def log(self, record: Mapping[str, Any]) -> None:
        """Queue one step's record (it has a `step`) and return at once."""
        if not self.active:
            return
        # A full queue drops the record; metrics.jsonl has it.
        with self._guard(), contextlib.suppress(queue.Full):
            self._queue.put_nowait(dict(record))

    def finish(self) -> None:
        """Wait, for `finish_seconds` at most, until wandb has taken what was logged."""
        thread, self._thread = self._thread, None
        if thread is None or not thread.is_alive():
            return
        deadline = time.monotonic() + self._finish_seconds
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=self._finish_seconds)
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            leave_behind()
            warn(
                f"wandb did not finish within {self._finish_seconds:.0f} s and was left behind; the metrics "
                "are in metrics.jsonl, and `wandb sync` uploads the run's wandb folder later"
            )

    def _work(self, settings: dict[str, Any]) -> None:
        try:
            run = _start(settings)
            while (record := self._queue.get()) is not None:
                run.log(record, step=int(record["step"]))
            run.finish()
        except BaseException as error:  # wandb raises many kinds; none may reach the run
            self._guard.fail(error)


def _start(settings: dict[str, Any]) -> Any:
    for name in [
        key for key, value in os.environ.items() if key.startswith("WANDB_") and not value
    ]:
        del os.environ[name]  # as if it were not set; wandb would refuse it
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its crash reports need a network
    import wandb

    Path(settings["dir"]).mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True
    )
    run = wandb.init(settings=quiet, **settings)
    run.define_metric("tokens")
    run.define_metric("*", step_metric="tokens")
    return run
