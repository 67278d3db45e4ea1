#!/usr/bin/env bash
# Coverage-guided fuzzers for some seconds each (300, or the first argument): the coder and the exact maps with clang's
# libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer; what reads an archive with atheris (pip install
# atheris). What they find lies in build/fuzz as crash-*: run the program on it again to see what it is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
seconds=${1:-300}
build=build/fuzz
mkdir -p $build/corpus/coder $build/corpus/archives
${CLANG:-clang++} -std=c++17 -O1 -g1 -march=native -ffp-contract=off -fno-math-errno -Wno-psabi \
  -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
  scripts/fuzz/coder.cpp csrc/cpu/library.cpp csrc/cpu/coder.cpp csrc/cpu/exact_*.cpp csrc/cpu/conv3x3*.cpp -o $build/coder
$build/coder $build/corpus/coder -artifact_prefix=$build/ -max_len=3000 -max_total_time="$seconds"
if ! $python -c "import atheris" 2> /dev/null; then
  echo "what reads an archive was not fuzzed: $python has no atheris" >&2
  exit 1
fi
$python scripts/fuzz/archives.py $build/corpus/archives -artifact_prefix=$build/ -max_len=3000 -max_total_time="$seconds"
