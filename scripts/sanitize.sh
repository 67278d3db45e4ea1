#!/usr/bin/env bash
# The tests of the native libraries (of CUDA's, emulated) under AddressSanitizer and UndefinedBehaviorSanitizer, and the
# library's every function once under valgrind where that is installed. Anything found is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
cmake=${CMAKE:-cmake}
build=build/sanitize
tests="tests/ops/test_native.py tests/ops/test_mixlogistic.py tests/ops/test_cpu_*.py tests/ops/test_coder.py
  tests/ops/test_exact.py tests/compression/test_hostile.py"

# Lines without variables keep the compile time of such long functions sane; so does it to build for the
# instruction set that will run here alone. Valgrind chooses for itself: it does not know the newest.
target=$($python -c "from vflow.ops import native; print(native.cpu_target())")
# CUDA's library would be built for minutes and run by nothing here: its kernels come by way of their emulator.
build_library() {  # folder, flags, options
  $cmake -S . -B $1 -DCMAKE_BUILD_TYPE=None -DCMAKE_INSTALL_PREFIX=$1/lib -DCMAKE_CXX_FLAGS="-g1 $2" -DVFLOW_CUDA=OFF $3
  $cmake --build $1 --target install --parallel 2
}
build_library $build "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" \
  -DVFLOW_CPU_TARGETS=$target

# Python itself and torch are not built with the sanitizers: their leaks are not ours.
preload="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libubsan.so)"
ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD=$preload VFLOW_LIBRARY_FOLDER=$PWD/$build/lib \
  $python -m pytest $tests -k "not instruction_set and not other_processors and not math"

# Damaged archives, whose bytes come to the coder; MUTATIONS of them, some seven a second.
ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 LD_PRELOAD=$preload \
  VFLOW_LIBRARY_FOLDER=$PWD/$build/lib $python scripts/mutate_archives.py --count "${MUTATIONS:-500}"

# The CUDA kernels in their emulator. What C++17 says of shifts, C++20 and every compiler here do not.
VFLOW_EMULATOR_FLAGS="-fsanitize=address,undefined -fno-sanitize=shift -fwrapv -fno-sanitize-recover=all" \
  ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD=$preload $python -m pytest tests/kernels -k "cuda and not offsets and not compiled"

if command -v valgrind > /dev/null; then
  log=$build/valgrind.log
  build_library $build/plain -O2 -UVFLOW_CPU_TARGETS
  PYTHONMALLOC=malloc VFLOW_LIBRARY_FOLDER=$PWD/$build/plain/lib PYTHONPATH=. \
    valgrind --error-limit=no --log-file=$log $python scripts/every_operation.py
  if grep libvflow_cpu $log; then
    echo "valgrind found the above in the native library; all of it is in $log" >&2
    exit 1
  fi
  echo "valgrind: nothing found in the native library"
fi
