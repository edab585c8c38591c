#!/usr/bin/env bash
# The tests of tttscale.hf on both lines of transformers, each in a throw-away folder beside what is installed.
#   bash tests/hf.sh                    tests/hf with each
#   bash tests/hf.sh -k beams           arguments go to pytest
#   bash tests/hf.sh --report           no tests: write benchmarks/transformers.md with both
#   TRANSFORMERS="4.57.6 5.24.0" bash tests/hf.sh   other versions
# Needs torch, pytest and tttscale's own requirements in the Python that is called `python`, or in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ -x .venv/bin/python ]] && export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 WANDB_MODE=offline HF_HUB_OFFLINE=1
read -ra versions <<<"${TRANSFORMERS:-4.57.6 5.24.0}"
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
folders=()
for version in "${versions[@]}"; do
  # Only what is tied to a version of transformers; the rest is that beside torch.
  install=(python -m pip --disable-pip-version-check --quiet install --upgrade --no-deps \
    --target "$root/$version")
  "${install[@]}" "transformers==$version" regex requests tqdm
  mapfile -t tied < <(sed -nE 's/^Requires-Dist: ((huggingface-hub|tokenizers)[^;]*)$/\1/p' \
    "$root/$version"/transformers-*.dist-info/METADATA)
  "${install[@]}" "${tied[@]}"
  folders+=("$root/$version")
done
export HF_HOME="$root/home"
if [[ "${1:-}" == --report ]]; then
  python -m benchmarks.transformers "${folders[@]/#/--packages=}" "${@:2}"
  exit
fi
for folder in "${folders[@]}"; do
  PYTHONPATH="$folder:$PWD" python -c 'import transformers as t, tokenizers as k, huggingface_hub as h, torch
print(f"transformers {t.__version__}, tokenizers {k.__version__}, huggingface_hub {h.__version__}, torch {torch.__version__}")'
  PYTHONPATH="$folder:$PWD" python -m pytest -q tests/hf "$@"
done
