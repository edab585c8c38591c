#!/usr/bin/env bash
# Under Open MPI or MPICH:  N=8 bash launch/mpirun.sh CONFIG [key=value ...]
# MPI starts the processes; parallel.transport=mpi sends carries over it, too. CONFIG, the paths in it and host files are
# relative to the folder that this is called from. More options for mpirun go into MPIRUN_ARGS. On several hosts,
# where checkout and folder must have the same paths, the ranks have to know the first host and, as Open MPI hands
# on no variable that is not named, OMP_NUM_THREADS:
#   Open MPI: N=16 MPIRUN_ARGS="--hostfile hosts -x MASTER_ADDR=$(hostname) -x OMP_NUM_THREADS" bash launch/mpirun.sh CONFIG ...
#   MPICH:    N=16 MPIRUN_ARGS="-f hosts -genv MASTER_ADDR $(hostname)" bash launch/mpirun.sh CONFIG ...
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
# The checkout's own environment, where there is one.
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# By its whole path: the PATH of other hosts is another one.
python="$(command -v python)" || {
  echo "no python on the PATH: run bash launch/install.sh, or activate the environment that holds tttscale" >&2
  exit 1
}
exec mpirun -n "${N:-2}" ${MPIRUN_ARGS:-} "$python" -m tttscale train "$@"
