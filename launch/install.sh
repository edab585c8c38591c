#!/usr/bin/env bash
# Make .venv in the checkout and install tttscale into it. Does nothing when that is done already.
#   bash launch/install.sh [EXTRA]     EXTRA: "dev" adds what the tests need
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"
stamp=".venv/.installed${extra:+-$extra}"

if [[ -e "$stamp" && "$stamp" -nt pyproject.toml && "$stamp" -nt constraints.txt ]]; then
  exit 0
fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
# A .venv whose making was interrupted has no pip yet; making it again completes it.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  names=(python3 python3.13 python3.12 python3.11)
  if [[ -n "${PYTHON:-}" ]]; then names=("$PYTHON"); fi
  python=""
  for name in "${names[@]}"; do
    if fits "$name"; then python="$name"; break; fi
  done
  [[ -n "$python" ]] || {
    echo "tttscale needs Python 3.11 to 3.13, which ${PYTHON:-python3} is not. Set PYTHON to one that is." >&2
    exit 1
  }
  "$python" -m venv .venv
fi
fits .venv/bin/python || {
  echo ".venv holds $(.venv/bin/python --version 2>&1); tttscale needs Python 3.11 to 3.13. Remove .venv and rerun." >&2
  exit 1
}
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
# torch first and exactly: a range may bring several gigabytes of CUDA libraries onto a CPU machine.
"${pip[@]}" install -c constraints.txt torch==2.13.0 setuptools
"${pip[@]}" install -c constraints.txt -e ".${extra:+[$extra]}"
touch .venv/.installed "$stamp"
