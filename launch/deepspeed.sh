#!/usr/bin/env bash
# One host through the deepspeed launcher:  N=8 bash launch/deepspeed.sh CONFIG [key=value ...] [-- options of deepspeed]
# Several hosts: HOSTFILE=hosts bash launch/deepspeed.sh CONFIG ...   (lines of "host slots=8"; needs pdsh and ssh)
# Without ssh: start it on each of them, with HOSTFILE, NODE_RANK (the host's line in it, from 0) and MASTER_ADDR set.
# Options of the launcher may also stand in DEEPSPEED_ARGS, cut at spaces. VERB=doctor looks at the job instead.
# CONFIG is a file, or a name that `tttscale configs` lists; paths are relative to the folder that this is called from.
# `tttscale launch deepspeed` runs this in every installation, with options for the variables.
set -euo pipefail
source "$(dirname "$0")/head.sh"
split "${DEEPSPEED_ARGS:-}" "$@"
# Without GPUs the launcher has to be told that CPU processes are wanted.
if ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  export DS_ACCELERATOR=cpu
fi
place=(--num_gpus "${N:-2}")
if [[ -n "${HOSTFILE:-}" ]]; then place=(--hostfile "$HOSTFILE"); fi
if [[ -n "${NODE_RANK:-}" ]]; then
  [[ -n "${HOSTFILE:-}" && -n "${MASTER_ADDR:-}" ]] || {
    echo "NODE_RANK=$NODE_RANK starts the ranks of this host without ssh: set HOSTFILE and MASTER_ADDR, too" >&2
    exit 1
  }
  place+=(--no_ssh --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
  if [[ -n "${MASTER_PORT:-}" ]]; then place+=(--master_port "$MASTER_PORT"); fi
fi
exec deepspeed "${place[@]}" ${options[@]+"${options[@]}"} --module tttscale "${VERB:-train}" \
  ${words[@]+"${words[@]}"}
