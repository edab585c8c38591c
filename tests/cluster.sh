#!/usr/bin/env bash
# Every launcher over several hosts, by the scripts in launch/ as they are, with sshd and a real Slurm.
# Needs root of a Debian machine; the hosts are namespaces of it, and its own network stays as it is.
#   bash tests/cluster.sh                            everything, under twenty minutes on two cores
#   bash tests/cluster.sh --out benchmarks/hosts     and keep a report
#   bash tests/cluster.sh -k mpich                   arguments go to pytest
# CLUSTER_VENV names an environment to take in place of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(slurm-wlm munge openssh-server pdsh iptables ethtool)

skip() { echo "skipped: $1" >&2; exit 0; }
[[ "$(id -u)" == 0 ]] || skip "needs root, to make hosts as namespaces"
unshare -n -u -m -p --fork true 2>/dev/null || skip "needs CAP_SYS_ADMIN, to make namespaces"
unshare -n ip link add br0 type bridge 2>/dev/null || skip "needs CAP_NET_ADMIN and bridges, to connect hosts"
missing=()
for name in "${packages[@]}"; do
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" == installed ]] || missing+=("$name")
done
if (( ${#missing[@]} )); then
  command -v apt-get >/dev/null || skip "needs Debian's packages ${missing[*]}"
  echo "installs ${missing[*]}; Debian may start their daemons" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
    skip "apt-get cannot install ${missing[*]}"
fi
if [[ -z "${CLUSTER_VENV:-}" ]]; then
  bash launch/install.sh dev
  CLUSTER_VENV="$PWD/.venv"
fi
export PATH="$CLUSTER_VENV/bin:$PATH" OMP_NUM_THREADS=1 WANDB_MODE=offline PYTHONPATH="$PWD"
exec python -m pytest -q tests/hosts/cluster_*.py "$@"
