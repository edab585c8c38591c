#!/usr/bin/env bash
# Wheels that a machine with torch but without a network needs for the GPU rounds, made where packages can be fetched:
#   bash benchmarks/gpu/wheels.sh wheels     then there WHEELS=wheels bash launch/gpu_train_check.sh
# For Python 3.12 (FOR_PYTHON=3.13: another one), Linux, x86-64. Nothing that comes with torch (numpy, triton) is among them.
set -euo pipefail
folder="${1:?a folder for the wheels}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}" limit_mib=64
of_there=(--only-binary=:all: --implementation cp --python-version "${FOR_PYTHON:-3.12}")
for name in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  of_there+=(--platform "${name}_x86_64")
done
fetch() { "$python" -m pip download --quiet -c constraints.txt --dest "$folder" "${of_there[@]}" "$@"; }
fetch pydantic  # with what it needs: its core has to be of its very version
fetch --no-deps fla-core==0.6.0 hjson zarr donfig msgspec numcodecs google-crc32c backports.zstd
# Published as source only; without its C++ extensions it is plain Python, for any version.
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet -c constraints.txt --no-deps --wheel-dir "$folder" deepspeed
size_mib=$(($(du -sk "$folder" | cut -f1) / 1024))
echo "$folder: $(ls "$folder" | wc -l) wheels, $size_mib MiB"
if ((size_mib >= limit_mib)); then
  echo "gpu_wheels: $size_mib MiB is more than the $limit_mib MiB that can be carried" >&2
  exit 1
fi
