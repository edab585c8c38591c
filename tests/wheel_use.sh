#!/usr/bin/env bash
# What tests/wheel.sh does with an installation: every --help, the shipped configurations, completion, a run of two steps
# alone and of two ranks, text from it, and messages; outside of the checkout, with nothing of it on any path.
#   bash tests/wheel_use.sh ENVIRONMENT CHECKOUT FOLDER
set -euo pipefail
bin="$1/bin" root="$2" folder="$3"
rm -rf "$folder"
mkdir -p "$folder/texts" "$folder/home"
cd "$folder"
export HOME="$folder/home" PATH="/usr/bin:/bin" OMP_NUM_THREADS=1 WANDB_MODE=offline
unset PYTHONPATH VIRTUAL_ENV
tttscale="$bin/tttscale"
fail() { echo "$1" >&2; exit 1; }

place="$("$bin/python" -c 'import tttscale; print(tttscale.__file__)')"
[[ "$place" == "$bin"/../* || "$place" == "${bin%/bin}"/* ]] || fail "tttscale comes from $place"
[[ "$("$tttscale" --version)" == "tttscale "* ]] || fail "no version"

# Every verb's --help, found in the help of its group.
"$bin/python" - <<'PY'
import subprocess, sys
from pathlib import Path

import typer.main

from tttscale.cli import app

program = str(Path(sys.executable).parent / "tttscale")

def verbs(command, words):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from verbs(inner, [*words, name])

found = list(verbs(typer.main.get_command(app), []))
for words in found:
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage" in done.stdout and not done.stderr, (words, done)
print(f"--help of {len(found)} verbs and groups")
PY

# Shipped configurations by name; a configuration of one's own with one for its base.
"$tttscale" configs >configs.txt
grep -q '^quickstart ' configs.txt || fail "configs does not list quickstart"
"$tttscale" train quickstart --print-config >resolved.yaml
grep -q 'steps: 40' resolved.yaml || fail "quickstart is not what it was"
for name in $(sed 's/ .*//' configs.txt); do "$tttscale" configs show "$name" >/dev/null; done
"$tttscale" plan ttt-linear-1.3b-1Mi --nodes 4 --gpus-per-node 8 | grep -q "parameters" || fail "no plan"
code=0; "$tttscale" train quikstart 2>said.txt || code=$?
[[ "$code" == 64 ]] && grep -q "like it: quickstart" said.txt || fail "a typo is not explained"

# The shell's questions.
answer="$(COMP_WORDS=$'tttscale\ntrain\nquick' COMP_CWORD=2 _TTTSCALE_COMPLETE=complete_bash "$tttscale")"
[[ "$answer" == *quickstart* ]] || fail "bash is not told of quickstart: $answer"

# A store, a run of two steps alone and on two ranks, and text from it.
for i in 1 2 3 4 5 6 7 8; do
  for j in 1 2 3 4 5 6 7 8; do printf 'Line %d of text %d, which says what the others say.\n' "$j" "$i"; done >"texts/$i.txt"
done
"$tttscale" data build store texts --heldout 0.2 >/dev/null
cat >tiny.yaml <<'Y'
base: quickstart
run: {name: tiny}
model: {num_hidden_layers: 2, hidden_size: 32, intermediate_size: 64, num_attention_heads: 2}
data: {store: store, sequence_length: 256}
parallel: {sequence: 1, chunk_length: 64}
train: {steps: 2, warmup_steps: 1}
evaluate: {every: 2, sequences: 1}
checkpoint: {every: 0}
Y
"$tttscale" train tiny.yaml >run.txt
[[ -e runs/tiny/final/model.safetensors ]] || fail "the run left no weights"
"$tttscale" launch torchrun tiny.yaml -n 2 parallel.sequence=2 run.name=two >two.txt 2>&1 || { cat two.txt; fail "two ranks"; }
"$bin/python" - <<'PY'
import json

alone, two = (
    [json.loads(line)["loss"] for line in open(f"runs/{name}/metrics.jsonl") if '"loss"' in line]
    for name in ("tiny", "two")
)
assert len(alone) == 2 and alone[0] == two[0], (alone, two)
print("losses of two steps alone", alone, "and of two ranks", two)
PY
"$tttscale" generate runs/tiny "Line" --tokens 8 >text.txt
"$tttscale" launch status runs/tiny >/dev/null
"$tttscale" launch slurm quickstart --nodes 2 --dry-run 2>/dev/null | grep -q ' train quickstart' || fail "no job's file"
! grep -rl "$root" ./*.txt resolved.yaml || fail "a path of the checkout"
