"""A job of a run for Slurm: the file that sbatch takes, and handing it in. No torch here."""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tttscale.errors import ConfigError, LaunchError

_SBATCH_SECONDS = 120
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+-]{0,127}")
_OPTION = re.compile(r"[a-z][a-z0-9-]{1,40}(=[\w.,:;+*/@\[\]&|()-]{1,200})?", re.ASCII)
_PLAIN_PATH = re.compile(r"[\w./+:@,=~-]+")
"""Paths that sbatch takes from a directive as they are: it reads %, \\, quotes and spaces in its own way."""
_TIMES = (
    r"(?P<m>\d{1,9})(:(?P<s>\d\d))?",
    r"(?P<h>\d{1,9}):(?P<m>\d\d):(?P<s>\d\d)",
    r"(?P<d>\d{1,9})-(?P<h>\d{1,2})(:(?P<m>\d\d)(:(?P<s>\d\d))?)?",
)
_UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
RANK = """\
# A rank that fails leaves its exit code (71 if it was killed) and waits a moment, so that the others can say
# the same. One that has saved when told to ends with 75. That must not end the others, which still save.
each='trap "" USR1; trap : TERM INT
  "$@" || { code=$?; ((code <= 128 || code == 130 || code == 143)) || code=71
  (set -C; echo $code >"$0") 2>/dev/null
  [[ $code == 75 ]] || { sleep 5; exit $code; }; }'
"""
"""What runs a rank, as in launch/slurm.sbatch. Slurm signals its shell, too, which has to outlive it."""
END = """\
# srun ends with the largest code of all ranks, also of those that Slurm has killed; the first is the run's.
first=""
if [[ -f "$ended" ]]; then read -r first <"$ended" || true; fi
if [[ "$first" =~ ^[0-9]+$ && ("$code" == 0 || "$first" != 75) ]]; then code="$first"; fi
rm -f "$ended"
"""
REQUEUE = """\
# Saved, or a rank was lost, hung or told to end: it resumes. A run without progress ends with another code.
case "$code" in 71 | 72 | 75 | 143)
  if ((${SLURM_RESTART_COUNT:-0} < 100)) && scontrol requeue "$SLURM_JOB_ID"; then
    sleep 60  # Slurm ends this script; an end of its own would count as the job's
  fi
  echo "ended with $code and is not queued again; submitted once more, it resumes" ;;
esac
"""
"""What follows srun."""
_OURS = {
    *(
        "job-name",
        "nodes",
        "ntasks-per-node",
        "gpus-per-node",
        "cpus-per-task",
        "time",
        "partition",
    ),
    *("signal", "requeue", "no-requeue", "open-mode", "output", "ntasks", "error", "chdir", "wrap"),
}
"""Options of sbatch that the file has already, or that would take it apart."""


@dataclass(frozen=True)
class SlurmJob:
    """What sbatch is asked for, and what runs."""

    name: str
    """The job's name, which is the run's."""
    nodes: int
    ranks_per_node: int
    command: tuple[str, ...]
    """The program that every rank runs, with its arguments."""
    folder: Path
    """Where it runs."""
    logs: Path
    """The folder of the file and of the logs; it must exist when the job starts."""
    gpus_per_node: int = 0
    cpus_per_rank: int = 1
    time: str = "24:00:00"
    """The limit, as Slurm writes it."""
    lead_seconds: int = 300
    """How long before the limit the run is told to save."""
    partition: str | None = None
    requeue: bool = True
    """Start again when a node or a rank was lost, and when the time limit was too short for the run."""
    options: tuple[str, ...] = field(default=())
    """Further options of sbatch: "account=physics", "exclusive"."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.logs / "train.sbatch"

    def check(self) -> None:
        """Check what is written into directives, where nothing can be quoted.

        Raises:
            ConfigError: a name, the time, an option or a path would mean something else there.
        """
        if self.partition is not None and not _NAME.fullmatch(self.partition):
            raise ConfigError(
                f"--partition {self.partition!r} is not a partition's name; `sinfo` lists them."
            )
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise ConfigError(
                    f"--sbatch {option!r} is not an option of sbatch without its dashes, such as "
                    "account=physics or exclusive."
                )
            if option.partition("=")[0] in _OURS:
                raise ConfigError(
                    f"--sbatch {option}: the file sets this itself. Use the option of `tttscale launch "
                    "slurm` (see --help), or edit what --dry-run prints."
                )
        if not _PLAIN_PATH.fullmatch(str(self.logs)):
            raise ConfigError(
                f"{str(self.logs)!r}, the folder of the logs, has characters that sbatch reads in its own "
                "way. Set run.dir to a path of letters, digits and / . _ - only."
            )
        if (limit := limit_seconds(self.time)) <= self.lead_seconds:
            raise ConfigError(
                f"--time {self.time} is {limit} seconds, and the run would be told to save "
                f"{self.lead_seconds} seconds before its end. Give it more time, or lower --lead-seconds."
            )


def limit_seconds(time: str) -> int:
    """The seconds of a time as Slurm writes it: 90 (minutes), 90:00, 24:00:00, 2-12, 2-12:00:00.

    Raises:
        ConfigError: it is none.
    """
    for pattern in _TIMES:
        if found := re.fullmatch(pattern, time, re.ASCII):
            return sum(
                int(number) * _UNIT_SECONDS[unit] for unit, number in found.groupdict("0").items()
            )
    raise ConfigError(
        f"--time {time!r} is not a time of Slurm: minutes, hours:minutes:seconds or days-hours."
    )


def render(job: SlurmJob) -> str:
    """Write the job as a file for sbatch.

    Raises:
        ConfigError: see `SlurmJob.check`.
    """
    job.check()
    return "\n".join([*_head(job), *_directives(job), *_body(job), ""])


def submit(job: SlurmJob) -> str:
    """Hand the job's file to sbatch.

    Returns:
        The job's number.

    Raises:
        LaunchError: there is no sbatch, it refuses the job, or it does not answer.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise LaunchError(
            f"no sbatch on the PATH, so {job.path} was not submitted. Run this on a host that has Slurm's "
            "commands (a login node; perhaps after `module load slurm`), or submit the file there."
        )
    try:
        done = subprocess.run(
            [program, "--parsable", str(job.path)],
            cwd=job.folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SBATCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(
            f"{program} {job.path}: {_one_line(str(error))}. Does `sinfo` answer?"
        ) from None
    number = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not re.fullmatch(r"\d+(;\S+)?", number[0]):
        said = _one_line(done.stderr or done.stdout)
        raise LaunchError(f"sbatch refused {job.path}: {said}.{_remedy(said)}")
    return number[0].partition(";")[0]


def _head(job: SlurmJob) -> list[str]:
    return [
        "#!/usr/bin/env bash",
        f"# The run {job.name} under Slurm, written by `tttscale launch slurm`. Submitted again, it resumes:",
        f"#   sbatch {job.path}",
        "# What stands on the line of sbatch comes before the lines below. The job has the environment of",
        "# sbatch; nothing of it is written here.",
    ]


def _directives(job: SlurmJob) -> list[str]:
    options = [
        f"job-name={job.name}",
        f"nodes={job.nodes}",
        f"ntasks-per-node={job.ranks_per_node}",
        *([f"gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []),
        f"cpus-per-task={job.cpus_per_rank}",
        f"time={job.time}",
        *([f"partition={job.partition}"] if job.partition else []),
        f"signal=USR1@{job.lead_seconds}",
        "requeue" if job.requeue else "no-requeue",
        "open-mode=append",
        f"output={job.logs}/%j.log",
        *job.options,
    ]
    return [f"#SBATCH --{option}" for option in options]


def _body(job: SlurmJob) -> list[str]:
    return [
        "set -euo pipefail",
        f"cd {shlex.quote(str(job.folder))}",
        'hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"',
        "# MASTER_PORT is left to tttscale, which derives it from the job: two jobs may share a host.",
        "export MASTER_ADDR=\"${hosts%%$'\\n'*}\"",
        'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
        f'ended="{job.logs}/$SLURM_JOB_ID.ended"',
        'rm -f "$ended"',
        *RANK.splitlines(),
        "code=0",
        f'srun --kill-on-bad-exit=1 bash -c "$each" "$ended" {shlex.join(job.command)} || code=$?',
        *END.splitlines(),
        *(REQUEUE.splitlines() if job.requeue else ()),
        'exit "$code"',
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")[:300] or "no reason given"


def _remedy(said: str) -> str:
    if "gres" in said.lower() or "generic resource" in said.lower():
        return " Is --gpus-per-node what `sinfo -o %G` says? 0 is for nodes without GPUs."
    if "partition" in said.lower():
        return " `sinfo` lists the partitions; --partition names one."
    if "configuration source" in said or "contact" in said:
        return " Does `sinfo` answer on this host? If not, submit the file on one where it does."
    if "account" in said.lower():
        return " --sbatch account=NAME names an account."
    return ""
