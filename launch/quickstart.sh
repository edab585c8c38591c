#!/usr/bin/env bash
# From a fresh clone to a trained model: install, build a token store from real text, train a TTT-Linear
# model at a 65,536-token context with every sequence split over two ranks, show what came out.
#   bash launch/quickstart.sh                      about ten minutes on two CPU cores
#   QUICKSTART_STEPS=200 bash launch/quickstart.sh     longer
# `tttscale launch quickstart` does the same with what is installed already, in the folder that it is called from.
set -euo pipefail
installed="${TTTSCALE_PYTHON:-}"
if [[ -z "$installed" ]]; then cd "$(dirname "$0")/.."; fi

stage="start"
trap 'echo "quickstart failed at this step: $stage" >&2' ERR
say() { stage="$1"; printf '\n== %s\n' "$1"; }

name="quickstart-$(date +%Y%m%d-%H%M%S)"
store="stores/python-stdlib"
run="runs/$name"
overrides=("run.name=$name" "data.store=$store")
[[ -n "${QUICKSTART_STEPS:-}" ]] && overrides+=("train.steps=$QUICKSTART_STEPS")

if [[ -n "$installed" ]]; then
  programs="${installed%/*}" tttscale=tttscale longer="tttscale launch quickstart --steps 200"
else
  say "install into .venv (once, a few minutes)"
  bash launch/install.sh
  programs="$PWD/.venv/bin" tttscale=.venv/bin/tttscale longer="QUICKSTART_STEPS=200 bash launch/quickstart.sh"
fi
export PATH="$programs:$PATH" OMP_NUM_THREADS=1

if [[ -d "$store" ]]; then
  say "use the token store $store"
else
  say "build a token store from this Python's own standard library"
  sources="$("${installed:-python}" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
  tttscale data build "$store" "$sources" --suffix .py \
    --exclude site-packages --heldout 0.01
fi
tttscale data info "$store"

say "train on two ranks (torchrun), 65,536 tokens per sequence"
torchrun --standalone --nproc-per-node 2 -m tttscale train quickstart "${overrides[@]}"

say "compare with a byte-bigram model of the same text"
tttscale baseline "$run"

cat <<EOT

Everything is in $run:
  metrics.jsonl          one line per step
  loss_by_step.png       the falling loss
  loss_by_position.png   loss along the context
  checkpoints/           where a stopped run resumes
  final/                 weights: tttscale.model.TTTForCausalLM.from_pretrained("$run/final")

Next:
  # what the trained model writes
  $tttscale generate $run "def main("
  # loss by position, passkey and other tasks
  $tttscale eval $run --sequences 2
  # its training as a page in the browser
  $tttscale watch $run
  # for transformers, with its tokenizer
  $tttscale export $run quickstart-model
  # resume it, to step 60
  $tttscale launch torchrun quickstart -n 2 run.name=$name train.steps=60
  # a longer one
  $longer
  # one process, the same losses
  $tttscale train quickstart run.name=alone parallel.sequence=1 train.steps=5
EOT
if [[ -z "$installed" ]]; then printf '  # run the tests\n  bash tests/run.sh\n'; fi
