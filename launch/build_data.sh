#!/usr/bin/env bash
# A token store built by several hosts that share a file system, under Open MPI or MPICH: one rank a host, each with
# as many worker processes as the host has cores (or --workers). N is the number of hosts:
#   Open MPI: N=4 MPIRUN_ARGS="--hostfile hosts" bash launch/build_data.sh OUT SOURCES... [--tokenizer ...]
#   MPICH:    N=4 MPIRUN_ARGS="-f hosts" bash launch/build_data.sh OUT SOURCES... [--tokenizer ...]
# Takes what `tttscale data build` takes; neither hosts nor workers change a byte of the store, and the same line goes
# on after an interruption. VERB=verify reads a store instead: VERB=verify N=4 ... bash launch/build_data.sh STORE
# Paths are relative to the folder that this is called from, which must have the same path on all hosts, as the checkout.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
# The checkout's own environment, where there is one.
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# By its whole path, and not as `tttscale`: the PATH of other hosts is another one, and in a checkout Open MPI takes
# the folder ./tttscale for the program.
python="$(command -v python)" || {
  echo "no python on the PATH: run bash launch/install.sh, or activate the environment that holds tttscale" >&2
  exit 1
}
place=(-ppn 1)
# Open MPI fills one host after the other, and would tie a rank, with all its workers, to one core or a few.
if [[ "$(mpirun --version 2>&1)" == *"Open MPI"* ]]; then
  place=(--map-by node --bind-to none -x OMP_NUM_THREADS)
fi
exec mpirun -n "${N:-2}" "${place[@]}" ${MPIRUN_ARGS:-} "$python" -m tttscale data "${VERB:-build}" "$@"
