#!/usr/bin/env bash
# Install into .venv if need be, lint, check types, run all tests. Arguments go to pytest:
#   bash tests/run.sh                    everything, about ten minutes on two cores
#   bash tests/run.sh tests/scan -x      one folder, stop at the first failure
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh dev
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1 WANDB_MODE=offline

ruff check .
ruff format --check --quiet .
python -m pyright --pythonpath .venv/bin/python || {
  # pyright is a node program that its package fetches; offline it cannot start.
  [[ "$(python -m pyright --version 2>/dev/null)" == pyright* ]] && exit 1
  echo "pyright could not start here: types are not checked" >&2
}
exec python -m pytest -n "${TEST_PROCESSES:-3}" --dist worksteal -q "$@"
