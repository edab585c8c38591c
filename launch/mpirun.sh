#!/usr/bin/env bash
# Under Open MPI or MPICH:  N=8 bash launch/mpirun.sh CONFIG [key=value ...]
# MPI only starts the processes; carries travel over torch.distributed. More options for mpirun go into
# MPIRUN_ARGS; on several hosts the ranks have to know the first one:
#   N=16 MPIRUN_ARGS="--hostfile hosts -x MASTER_ADDR=$(hostname)" bash launch/mpirun.sh CONFIG ...
set -euo pipefail
cd "$(dirname "$0")/.."
# The checkout's own environment, where there is one.
if [[ -d .venv/bin ]]; then export PATH="$PWD/.venv/bin:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec mpirun -n "${N:-2}" ${MPIRUN_ARGS:-} python -m tttscale train "$@"
