#!/usr/bin/env bash
# A token store built by several hosts that share a file system: one rank a host, each with as many worker processes
# as the host has cores (or --workers).
#   Open MPI, MPICH: HOSTFILE=hosts bash launch/build_data.sh OUT SOURCES... [--tokenizer ...] [-- options of mpirun]
#   Slurm:           sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=16 launch/build_data.sh OUT SOURCES...
# HOSTFILE has one host a line; or give N, the number of hosts, and mpirun's own options. In a Slurm allocation the
# hosts are Slurm's; mpirun starts the ranks there, too, or srun if SRUN_ARGS says how it starts MPI (--mpi=pmix).
# Takes what `tttscale data build` takes; neither hosts nor workers change a byte of the store, and the same line
# resumes after an interruption. VERB=verify reads a store instead: VERB=verify HOSTFILE=hosts bash ... STORE
# Paths are relative to the folder that this is called from, which must have the same path on all hosts, as the checkout.
# Options of mpirun may also stand in MPIRUN_ARGS; which mpirun is taken: see launch/mpirun.sh.
# `tttscale launch build-data` runs this in every installation.
set -euo pipefail
here="$(dirname "$0")"
# sbatch runs a copy of this file, in the folder of submission.
if [[ ! -e "$here/head.sh" ]]; then here="${SLURM_SUBMIT_DIR:-.}/launch"; fi
source "$here/head.sh" || { echo "submit this from the checkout" >&2; exit 1; }
split "${MPIRUN_ARGS:-}" "$@"
count="${SLURM_JOB_NUM_NODES:-2}"
command=("$python" -m tttscale data "${VERB:-build}" ${words[@]+"${words[@]}"})
if [[ -n "${SLURM_JOB_ID:-}" && -n "${SRUN_ARGS:-}" ]]; then
  export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-}"
  exec srun --nodes="${N:-$count}" --ntasks-per-node=1 $SRUN_ARGS "${command[@]}"
fi
choose_mpirun
place=(-ppn 1)
# Open MPI fills one host after the other, and would tie a rank, with all its workers, to one core or a few.
if "$openmpi"; then place=(--map-by node --bind-to none); fi
if [[ -n "${HOSTFILE:-}" ]]; then
  hosts_of "$HOSTFILE" 1
  count="$host_count"
  if "$openmpi"; then place+=(--host "$hosts"); else place+=(-hosts "$hosts"); fi
fi
hand_on
exec "$mpirun" -n "${N:-$count}" "${place[@]}" ${handed[@]+"${handed[@]}"} ${options[@]+"${options[@]}"} "${command[@]}"
