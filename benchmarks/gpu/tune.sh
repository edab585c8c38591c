#!/usr/bin/env bash
# Times every kernel of the paper's shape under other launches than the table's, on this machine's GPU, to edit
# this GPU's file in kernels/launches/ by. Writes OUT/gpu_tune.md and .json (default: benchmarks/) within SECONDS_LIMIT (540).
# Then run launch/gpu_check.sh: a launch that is fast has yet to be right in every configuration.
# PYTHON, WHEELS, COMMIT and OUT as for launch/gpu_check.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
exec bash launch/gpu_check.sh tune
