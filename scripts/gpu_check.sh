#!/usr/bin/env bash
# All that only a GPU can say, in under 15 minutes, of both backends, triton and cuda: the operations' tests on the
# device (CUDA graphs and torch.compile among them), compute-sanitizer on small shapes, and the speed of every operation
# as JSON under bench/results/. Where csrc/cuda turns out faster than Triton, `Operation(..., first="cuda")` makes it the default.
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
timeout 240 $python -m pytest tests/kernels tests/train/test_cuda.py -q

if command -v compute-sanitizer > /dev/null; then
  # Without the caching allocator every tensor has an end that can be overrun.
  for tool in memcheck racecheck; do
    for backend in triton cuda; do
      echo "== compute-sanitizer $tool, $backend"
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 120 \
        compute-sanitizer --tool $tool --error-exitcode 1 $python scripts/every_operation.py --backend $backend
    done
  done
else
  echo "compute-sanitizer is not on PATH: skipped" >&2
fi

echo "== speed"
mkdir -p bench/results
operations="mixlogistic mixlogistic_inverse actnorm_conv1x1 gated_residual_norm concat_elu"
for backend in triton cuda; do
  VFLOW_BACKEND=$backend timeout 240 $python bench/ops.py --no-gate --device cuda --only $operations \
    --json "bench/results/ops-$device-$backend.json"
done
