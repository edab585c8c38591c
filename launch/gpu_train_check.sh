#!/usr/bin/env bash
# The GPU round `train_check`; benchmarks/gpu/run.sh says what it does, what it writes and what can be set.
set -euo pipefail
exec bash "$(dirname "$0")/../benchmarks/gpu/run.sh" train_check
