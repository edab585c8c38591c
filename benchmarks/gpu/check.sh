#!/usr/bin/env bash
# The GPU round in one go: what the card can do, every kernel against the fp64 reference, two ranks against one, times
# beside peers, whole steps of 1.3B models. Writes OUT/gpu_check.md and .json (default OUT: benchmarks/) within
# SECONDS_LIMIT (540), and every row as it is made to OUT/gpu_check.jsonl.
# Runs from the source tree; on a machine without a GPU it says so and does the same on the CPU, small.
#   PYTHON=python3.12 bash launch/gpu_check.sh     with another Python than that of .venv or the PATH
#   bash launch/gpu_wheels.sh wheels     where packages can be fetched: those that a bare torch image lacks, 15 MiB
#   WHEELS=wheels bash launch/gpu_check.sh     there, with these (pydantic; fla-core as a peer)
#   COMMIT=9038e45 ...     what the report calls the code, in a copy without git; a file COMMIT does it too
# OUT and WHEELS are relative to the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
# The checkout's own environment, where there is one.
if [[ -d .venv/bin ]]; then export PATH="$PWD/.venv/bin:$PATH"; fi
python="${PYTHON:-python3}"
if [[ -n "${WHEELS:-}" ]]; then
  if ! compgen -G "$WHEELS/*.whl" >/dev/null; then
    echo "gpu_check.sh: WHEELS=$WHEELS: no *.whl there; make them with launch/gpu_wheels.sh" >&2
    exit 2
  fi
  packages="$(mktemp -d)"
  trap 'rm -rf "$packages"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$packages" "$WHEELS"/*.whl
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
what="${1:-check}"
# What the machine lacks, said in a second and not after minutes.
"$python" -m tttscale.bench.gpu_machine "$what"
"$python" -m "tttscale.bench.gpu_$what" "${OUT:-benchmarks}/gpu_$what" "${SECONDS_LIMIT:-540}"
