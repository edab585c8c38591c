#!/usr/bin/env bash
# A GPU round in one command, from the source tree, within SECONDS_LIMIT; needs no more than torch, triton and numpy:
#   bash benchmarks/gpu/run.sh check        what the card can do, every kernel against the fp64 reference, two ranks
#                                           against one, times beside peers, whole steps of 1.3B models (540 seconds)
#   bash benchmarks/gpu/run.sh train_check  the real trainer, killed and resumed: the same bits (300 seconds). It needs
#                                           the trainer's packages, too
#   bash benchmarks/gpu/run.sh tune         every kernel of the paper's shape under other launches than the table's, to
#                                           edit this GPU's file in kernels/triton_scan/launches/ by (540 seconds). Then check: a
#                                           launch that is fast has yet to be right in every configuration
# Writes OUT/gpu_ROUND.md, .json, and .jsonl with every row as it is made (train_check also .log, what its processes
# printed). OUT is benchmarks/ unless it is set; there all but the page are in benchmarks/data/.
# Without a GPU it says so and does the same on the CPU, small.
#   PYTHON=python3.12 ...  with another Python than that of .venv or the PATH
#   bash benchmarks/gpu/wheels.sh wheels    where packages can be fetched: those that a bare torch image lacks, 15 MiB
#   WHEELS=wheels ...      there, with these (fla-core as a peer; the trainer's packages)
#   COMMIT=9038e45 ...     what the report calls the code, in a copy without git; a file COMMIT does it too
# OUT and WHEELS are relative to the checkout.
set -euo pipefail
cd "$(dirname "$0")/../.."
what="${1:?check, train_check or tune}"
limit=540
if [[ "$what" == train_check ]]; then limit=300; fi
# The checkout's own environment, where there is one.
if [[ -d .venv/bin ]]; then export PATH="$PWD/.venv/bin:$PATH"; fi
python="${PYTHON:-python3}"
if [[ -n "${WHEELS:-}" ]]; then
  if ! compgen -G "$WHEELS/*.whl" >/dev/null; then
    echo "gpu_$what: WHEELS=$WHEELS: no *.whl there; make them with benchmarks/gpu/wheels.sh" >&2
    exit 2
  fi
  packages="$(mktemp -d)"
  trap 'rm -rf "$packages"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$packages" "$WHEELS"/*.whl
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
# What the machine lacks, said in a second and not after minutes.
"$python" -m benchmarks.gpu.machine "$what"
"$python" -m "benchmarks.gpu.$what" "${OUT:-benchmarks}/gpu_$what" "${SECONDS_LIMIT:-$limit}"
