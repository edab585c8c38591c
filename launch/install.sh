#!/usr/bin/env bash
# Make .venv in the checkout and install tttscale into it. Does nothing when that is done already.
#   bash launch/install.sh [EXTRA]     EXTRA: "dev" adds what the tests need
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"
python="${PYTHON:-python3}"
stamp=".venv/.installed${extra:+-$extra}"

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "tttscale needs Python 3.11 to 3.13; $("$python" --version) was found. Set PYTHON=python3.12, say." >&2
  exit 1
}
if [[ -e "$stamp" && "$stamp" -nt pyproject.toml && "$stamp" -nt constraints.txt ]]; then
  exit 0
fi
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
# torch first and exactly: a range may bring several gigabytes of CUDA libraries onto a CPU machine.
"${pip[@]}" install -c constraints.txt torch==2.13.0 setuptools
"${pip[@]}" install -c constraints.txt -e ".${extra:+[$extra]}"
touch "$stamp"
