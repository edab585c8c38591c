#!/usr/bin/env bash
# The real trainer on this machine's device: builds a small store, trains with DeepSpeed ZeRO 1 in bf16 with train.compile,
# kills a second such run and takes it up again, and compares every bit. Writes OUT/gpu_train_check.md, .json, .jsonl and
# .log (default OUT: benchmarks/) within SECONDS_LIMIT (here 300). Without a GPU: the same on the CPU, tiny.
# PYTHON, WHEELS, COMMIT and OUT as for launch/gpu_check.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
SECONDS_LIMIT="${SECONDS_LIMIT:-300}" exec bash launch/gpu_check.sh train_check
