#!/usr/bin/env bash
# Under Open MPI or MPICH:  N=8 bash launch/mpirun.sh CONFIG [key=value ...] [-- options of mpirun]
# Several hosts: HOSTFILE=hosts bash launch/mpirun.sh CONFIG ...   (lines of "host slots=8"; N: their sum, or fewer)
# In a Slurm allocation (sbatch, salloc) mpirun takes hosts and their number from Slurm.
# MPI starts the processes; parallel.transport=mpi sends carries over it, too. Options may also stand in MPIRUN_ARGS, cut at
# spaces. The first mpirun on the PATH is taken, the one in .venv last; MPIRUN names another. Variables such as
# MASTER_ADDR, OMP_NUM_THREADS, NCCL_*, WANDB_* and PYTHON* are handed on to the other hosts, where checkout and folder
# must have the same paths. CONFIG, the paths in it and HOSTFILE are relative to the folder that this is called from.
# VERB=doctor looks at the job instead of training. `tttscale launch mpirun` runs this in every installation.
set -euo pipefail
source "$(dirname "$0")/head.sh"
split "${MPIRUN_ARGS:-}" "$@"
choose_mpirun
place=()
count="${SLURM_NTASKS:-2}"
if [[ -n "${HOSTFILE:-}" ]]; then
  hosts_of "$HOSTFILE" 1
  count="$slot_count"
  # Ranks fill the hosts in this order, so that rank 0 is on the first one.
  first="${hosts%%:*}"
  if [[ "$first" == localhost ]]; then first="$HOSTNAME"; fi
  if ((host_count > 1)); then export MASTER_ADDR="${MASTER_ADDR:-$first}"; fi
  place=(-hosts "$hosts")
  if "$openmpi"; then place=(--host "$hosts"); fi
fi
hand_on
exec "$mpirun" -n "${N:-$count}" ${handed[@]+"${handed[@]}"} ${place[@]+"${place[@]}"} ${options[@]+"${options[@]}"} \
  "$python" -m tttscale "${VERB:-train}" ${words[@]+"${words[@]}"}
