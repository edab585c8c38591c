#!/usr/bin/env bash
# One host, N ranks, one per GPU (or CPU process):  N=8 bash launch/torchrun.sh CONFIG [key=value ...]
# Several hosts: start it on each with NODES, NODE_RANK and MASTER_ADDR set.
set -euo pipefail
cd "$(dirname "$0")/.."
# The checkout's own environment, where there is one.
if [[ -d .venv/bin ]]; then export PATH="$PWD/.venv/bin:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
place=(--standalone)
if [[ "${NODES:-1}" -gt 1 ]]; then
  place=(--nnodes "$NODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR"
         --master-port "${MASTER_PORT:-29500}")
fi
exec torchrun "${place[@]}" --nproc-per-node "${N:-2}" -m tttscale train "$@"
