#!/usr/bin/env bash
# One host through the deepspeed launcher:  N=8 bash launch/deepspeed.sh CONFIG [key=value ...]
# Several hosts: HOSTFILE=hosts bash launch/deepspeed.sh CONFIG ...   (lines of "host slots=8")
# CONFIG, the paths in it and HOSTFILE are relative to the folder that this is called from.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
# The checkout's own environment, where there is one.
if [[ -d "$root/.venv/bin" ]]; then export PATH="$root/.venv/bin:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Without GPUs the launcher has to be told that CPU processes are wanted.
if ! python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  export DS_ACCELERATOR=cpu
fi
place=(--num_gpus "${N:-2}")
[[ -n "${HOSTFILE:-}" ]] && place=(--hostfile "$HOSTFILE")
exec deepspeed "${place[@]}" --module tttscale train "$@"
