#!/usr/bin/env bash
# Under Open MPI or MPICH:  N=8 bash launch/mpirun.sh CONFIG [key=value ...]
# MPI only starts the processes; carries travel over torch.distributed.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec mpirun -n "${N:-2}" ${MPIRUN_ARGS:-} python -m tttscale train "$@"
