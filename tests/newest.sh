#!/usr/bin/env bash
# The tests on the newest versions that pyproject.toml lets in, which is what `pip install` brings today.
#   bash tests/newest.sh                                            everything
#   bash tests/newest.sh tests/ptx tests/kernels                    arguments go to pytest
#   bash tests/newest.sh --out benchmarks/newest_versions tests/ptx   and keep a report
# In .venv-newest, beside the .venv of pinned versions; made again each day that it is asked for. May bring
# several gigabytes of CUDA libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-newest
stamp="$venv/.installed-$(date +%F)"
[[ -x "$venv/bin/python" ]] || "${PYTHON:-python3}" -m venv "$venv"
if [[ ! -e "$stamp" || pyproject.toml -nt "$stamp" ]]; then
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install \
    --upgrade --upgrade-strategy eager -e ".[dev]"
  rm -f "$venv"/.installed-*; touch "$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH" OMP_NUM_THREADS=1 WANDB_MODE=offline
exec python -m tests.campaigns.newest_versions "$@"
