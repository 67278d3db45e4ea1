#!/usr/bin/env bash
# All that only a GPU can say, in under 8 minutes: the operations' tests on the device (CUDA graphs and
# torch.compile among them), compute-sanitizer on small shapes, the registers of what was compiled, and the speed of
# every operation as JSON under bench/results/.
#
#     scripts/gpu_check.sh            needs the package installed with its dev extra, and a CUDA build of torch
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=.

$python - << 'END'
import torch
if not torch.cuda.is_available():
    raise SystemExit("gpu_check needs a CUDA device, and a build of torch that sees it")
END
device=$($python -c "import torch; print(torch.cuda.get_device_name().replace(' ', '-').lower())")
$python -m vflow info

echo "== tests on the device"
timeout 180 $python -m pytest tests/kernels -q

if command -v compute-sanitizer > /dev/null; then
  # Without the caching allocator every tensor has an end that can be overrun.
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 120 \
      compute-sanitizer --tool $tool --error-exitcode 1 $python scripts/every_operation.py --backend triton
  done
else
  echo "compute-sanitizer is not on PATH: skipped" >&2
fi

echo "== speed"
mkdir -p bench/results
timeout 240 $python bench/ops.py --no-gate --device cuda --json "bench/results/ops-$device.json"
