#!/usr/bin/env bash
# The GPU round in one go: every kernel configuration against the fp64 reference, times beside peers, whole
# steps of 1.3B models. Writes OUT/gpu_check.md and OUT/gpu_check.json (default: benchmarks/) within SECONDS_LIMIT (540).
# Runs from the source tree; on a machine without a GPU it says so and does the same on the CPU, small.
#   PYTHON=python3.12 bash launch/gpu_check.sh     with another Python than that of .venv or the PATH
#   WHEELS=folder bash launch/gpu_check.sh     with packages that the machine lacks (pydantic; fla-core as a peer)
# OUT and WHEELS are relative to the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
# The checkout's own environment, where there is one.
if [[ -d .venv/bin ]]; then export PATH="$PWD/.venv/bin:$PATH"; fi
python="${PYTHON:-python3}"
if [[ -n "${WHEELS:-}" ]]; then
  packages="$(mktemp -d)"
  "$python" -m pip install --quiet --no-index --no-deps --target "$packages" "$WHEELS"/*.whl
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
what="gpu_${1:-check}"
exec "$python" -m "tttscale.bench.$what" "${OUT:-benchmarks}/$what" "${SECONDS_LIMIT:-540}"
