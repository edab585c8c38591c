#!/usr/bin/env bash
# One host, N ranks, one per GPU (or CPU process):  N=8 bash launch/torchrun.sh CONFIG [key=value ...]
# Several hosts: start it on each of them, with NODES, NODE_RANK and MASTER_ADDR set.
# CONFIG and the paths in it are relative to the folder that this is called from.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
# The checkout's own environment, where there is one.
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
place=(--standalone)
if [[ "${NODES:-1}" -gt 1 ]]; then
  place=(--nnodes "$NODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR"
         --master-port "${MASTER_PORT:-29500}")
fi
exec torchrun "${place[@]}" --nproc-per-node "${N:-2}" -m tttscale train "$@"
