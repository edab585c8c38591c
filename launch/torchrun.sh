#!/usr/bin/env bash
# One host, N ranks, one per GPU (or CPU process):  N=8 bash launch/torchrun.sh CONFIG [key=value ...] [-- options]
# Several hosts: start it on each of them, with NODES, NODE_RANK and MASTER_ADDR set.
# Options of torchrun stand after a --, or in TORCHRUN_ARGS, cut at spaces. VERB=doctor looks at the job instead.
# CONFIG is a file, or a name that `tttscale configs` lists; paths are relative to the folder that this is called from.
# `tttscale launch torchrun` runs this in every installation, with options for the variables.
set -euo pipefail
source "$(dirname "$0")/head.sh"
split "${TORCHRUN_ARGS:-}" "$@"
place=(--standalone)
if [[ "${NODES:-1}" -gt 1 ]]; then
  place=(--nnodes "$NODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR"
         --master-port "${MASTER_PORT:-29500}")
fi
exec torchrun "${place[@]}" --nproc-per-node "${N:-2}" ${options[@]+"${options[@]}"} -m tttscale "${VERB:-train}" \
  ${words[@]+"${words[@]}"}
