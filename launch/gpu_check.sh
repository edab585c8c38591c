#!/usr/bin/env bash
# The GPU round in one go: are the results on a GPU those of the fp64 reference, and what does a step take.
# Writes OUT/gpu_check.md and OUT/gpu_check.json (default: benchmarks/). Runs from the source tree; on a machine
# without a GPU it says so and does the same checks on the CPU, small.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m tttscale.bench.gpu_check "${OUT:-benchmarks}/gpu_check"
