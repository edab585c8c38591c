#!/usr/bin/env bash
# The wheel and the source distribution as people get them: built from a copy of the files that git knows, looked
# through, installed into a fresh environment of every Python from 3.11 to 3.13 that is at hand, and used elsewhere.
#   bash tests/wheel.sh                        every python3.11, python3.12, python3.13 on the PATH
#   PYTHONS="python3.12 /opt/p/bin/python3" bash tests/wheel.sh
#   FOLDER=/big/disk bash tests/wheel.sh       instead of a temporary folder; then what it made stays
# An environment takes 2 GB with a CPU build of torch (PIP_FIND_LINKS names a folder that has one for this Python), and
# up to 8 GB with PyPI's, which brings CUDA's libraries. One at a time is there.
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
folder="${FOLDER:-$(mktemp -d)}"
mkdir -p "$folder"
if [[ -z "${FOLDER:-}" ]]; then trap 'rm -rf "$folder"' EXIT; fi
export OMP_NUM_THREADS=1 WANDB_MODE=offline PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
unset PYTHONPATH VIRTUAL_ENV
say() { printf '\n== %s\n' "$1"; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
pythons=()
for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
  if fits "$python"; then pythons+=("$python"); else echo "no $python here: not tested"; fi
done
((${#pythons[@]})) || { echo "no Python from 3.11 to 3.13: set PYTHONS" >&2; exit 1; }

say "build wheel and source distribution"
rm -rf "$folder/source" "$folder/dist" "$folder/again" "$folder/tools"
mkdir -p "$folder/source" "$folder/dist" "$folder/again"
git ls-files -z | tar --null --files-from=- --create | tar --extract --directory "$folder/source"
"${pythons[0]}" -m venv "$folder/tools"
"$folder/tools/bin/python" -m pip install 'setuptools>=77'
(cd "$folder/source" && "$folder/tools/bin/python" -c \
  "import setuptools.build_meta as b; b.build_sdist('$folder/dist')" >"$folder/sdist.log")
# A wheel of the files themselves, and one of the source distribution.
"$folder/tools/bin/python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$folder/dist" "$folder/source"
"$folder/tools/bin/python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$folder/again" "$folder"/dist/*.tar.gz
wheel="$(echo "$folder"/dist/*.whl)" sdist="$(echo "$folder"/dist/*.tar.gz)"
"$folder/tools/bin/python" tests/wheel_contents.py "$wheel" "$folder"/again/*.whl "$sdist"

for python in "${pythons[@]}"; do
  version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  say "Python $version: install the wheel"
  environment="$folder/python$version"
  rm -rf "$environment"
  "$python" -m venv "$environment"
  # torch first and exactly, as launch/install.sh does.
  "$environment/bin/python" -m pip install -c constraints.txt torch==2.13.0
  "$environment/bin/python" -m pip install -c constraints.txt "$wheel"
  "$environment/bin/python" -m pip check || echo "(pip check: see above)"
  say "Python $version: use it"
  bash tests/wheel_use.sh "$environment" "$root" "$folder/use$version"
  say "Python $version: the same from the source distribution"
  "$environment/bin/python" -m pip install --no-deps --force-reinstall "$sdist"
  "$environment/bin/tttscale" --version
  (cd "$folder" && "$environment/bin/tttscale" configs show quickstart >/dev/null)
  (cd "$folder" && "$environment/bin/tttscale" train ttt-mlp-760m-32Ki --print-config >/dev/null)
  rm -rf "$environment" "$folder/use$version"
done
say "passed with ${pythons[*]}"
