#!/usr/bin/env bash
# Load the library of the aarch64 wheel in dist/ under qemu (apt-get install qemu-user g++-aarch64-linux-gnu).
set -euo pipefail
cd "$(dirname "$0")/../.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
aarch64-linux-gnu-g++ -std=c++17 -Wall -Wextra -o "$place/load" scripts/wheel/load.cpp -ldl
"${PYTHON:-python3}" -m zipfile -e dist/vflow-*_aarch64.whl "$place/wheel"
readelf -h "$place/wheel/vflow/_lib/libvflow_cpu.so" | grep -E "Class|Machine"
readelf -d "$place/wheel/vflow/_lib/libvflow_cpu.so" | grep -E "NEEDED|RUNPATH|RPATH"
qemu-aarch64 -L /usr/aarch64-linux-gnu "$place/load" "$place/wheel/vflow/_lib/libvflow_cpu.so"
