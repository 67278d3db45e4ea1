// Digests of what the coder and the exact kernels make of numbers that integers alone determine, one a line,
// for tests/ops/test_portable.py: this is built for other processors and run in an emulator of theirs.
#include <stdint.h>
#include <stdio.h>

#include <vector>

#include "../../csrc/vflow.h"

static uint64_t state = 1;
static uint32_t random_word() {  // PCG's step and output
  state = state * 6364136223846793005u + 1442695040888963407u;
  const uint32_t shifted = static_cast<uint32_t>(((state >> 18) ^ state) >> 27), turn = state >> 59;
  return shifted >> turn | shifted << (-turn & 31);
}
template <class T>
static std::vector<T> reals(size_t count, double scale) {
  std::vector<T> numbers(count);
  for (T& number : numbers)
    number = static_cast<T>((static_cast<int32_t>(random_word()) >> 8) * scale / 8388608.0);
  return numbers;
}
static std::vector<int64_t> wholes(size_t count, int bits) {
  std::vector<int64_t> numbers(count);
  for (int64_t& number : numbers) {
    const uint64_t high = random_word();
    number = static_cast<int64_t>(high << 32 | random_word()) >> (64 - bits);
  }
  return numbers;
}

template <class T>
static uint64_t digest(const std::vector<T>& numbers, uint64_t hash = 0xcbf29ce484222325u) {  // FNV-1a
  const auto* bytes = reinterpret_cast<const unsigned char*>(numbers.data());
  for (size_t i = 0; i < numbers.size() * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}
static void report(const char* name, int error, uint64_t hash) {
  printf("%s %d %016llx\n", name, error, static_cast<unsigned long long>(hash));
}

static void convolution(const char* name, int side, int64_t in) {
  const int64_t batch = 2, height = 5, width = 9, out = 21;
  const auto x = reals<float>(batch * height * width * in, 3), bias = reals<float>(out, 1);
  const auto weight = reals<float>(out * in * side * side, 1);
  std::vector<float> y(batch * height * width * out);
  const int error = vflow_cpu_exact_convolution(x.data(), weight.data(), bias.data(), y.data(), batch, height,
                                                width, in, out, side, 2);
  report(name, error, digest(y));
}

static void networks() {
  convolution("pointwise", 1, 7);
  convolution("convolution", 3, 7);
  const int64_t rows = 33, features = 19;
  const auto x = reals<float>(rows * features, 5), ab = reals<float>(2 * rows * features, 5);
  const auto weight = reals<float>(features, 2), bias = reals<float>(features, 2);
  std::vector<float> y(rows * features), twice(2 * rows * features);
  int error = vflow_cpu_exact_concat_elu(x.data(), twice.data(), rows, features, 1);
  report("concat_elu", error, digest(twice));
  error = vflow_cpu_exact_gated_residual(x.data(), ab.data(), weight.data(), bias.data(), y.data(), rows,
                                         features, 1);
  report("gated_residual_norm", error, digest(y));
  error = vflow_cpu_exact_gated_residual(x.data(), ab.data(), nullptr, nullptr, y.data(), rows, features, 1);
  report("gated_residual", error, digest(y));
  const auto qkv = reals<float>(2 * 35 * 3 * 2 * 11, 3);
  std::vector<float> heads(2 * 35 * 2 * 11);
  error = vflow_cpu_exact_attention(qkv.data(), heads.data(), 2, 35, 2, 11, 1);
  report("attention", error, digest(heads));
}

// Glow's network: a 3x3 convolution, a linear map, another 3x3, with rectifiers between; in the sizes that
// fill blocks of channels and leave some over.
static void glow() {
  const int64_t batch = 2, height = 4, width = 16, channels[] = {6, 48, 40, 12};
  auto x = reals<float>(batch * height * width * channels[0], 3);
  int error = 0;
  for (int layer = 0; layer < 3; ++layer) {
    const int64_t in = channels[layer], out = channels[layer + 1];
    const int side = layer == 1 ? 1 : 3;
    const auto weight = reals<float>(out * in * side * side, 1), bias = reals<float>(out, 1);
    std::vector<float> y(batch * height * width * out);
    error |= vflow_cpu_exact_convolution(x.data(), weight.data(), bias.data(), y.data(), batch, height, width,
                                         in, out, side, 2);
    for (float& number : y) number = layer < 2 && number < 0 ? 0 : number;
    x = y;
  }
  report("Glow's network", error, digest(x));
}

static void maps() {
  const char* names[] = {"exp", "log", "tanh", "sigmoid"};
  for (const int function : {VFLOW_EXP, VFLOW_LOG, VFLOW_TANH, VFLOW_SIGMOID}) {
    auto x = reals<double>(777, 30);
    if (function == VFLOW_LOG)
      for (double& number : x) number = number < 0 ? -number : number + 1e-6;
    std::vector<double> y(x.size());
    const int error = vflow_cpu_exact_function(function, x.data(), y.data(), 777, 2);
    report(names[function], error, digest(y));
  }
  auto rows = wholes(70 * 5, 36);
  const auto matrix = reals<double>(25, 1);
  const int error = vflow_cpu_exact_lift(rows.data(), matrix.data(), 70, 5, 1, 0, 1);
  report("lift", error, digest(rows));
}

static void coder() {
  const int64_t lanes = 8, capacity = 1 << 14, count = 2000;
  std::vector<uint64_t> states(lanes, (uint64_t{1} << 32) + 12345);
  std::vector<uint32_t> words(lanes * capacity);
  std::vector<int64_t> counts(lanes, 0), lent(lanes, 0);
  const vflow_coder coder{lanes, capacity, states.data(), words.data(), counts.data(), lent.data()};
  const auto params = reals<float>(count * 14, 3);
  std::vector<int64_t> x = wholes(count, 35), y(count), cell(count), lower(count), width(count), back(count);
  for (const int squash : {0, 1}) {
    int error = vflow_cpu_exact_mixture_cells(VFLOW_FLOAT32, x.data(), params.data(), lower.data(),
                                              width.data(), count, 4, squash, 32, 18, 1);
    report(squash ? "squashed cells" : "cells", error, digest(width, digest(lower)));
    error = vflow_cpu_coder_cells(&coder, x.data(), lower.data(), width.data(), y.data(), count, 18, 1);
    report("coder's cells", error, digest(y));
    error = vflow_cpu_exact_mixture_find(VFLOW_FLOAT32, y.data(), params.data(), cell.data(), lower.data(),
                                         width.data(), count, 4, squash, 32, 18, 1);
    report("found cells", error, digest(cell));
    error = vflow_cpu_coder_cells_inverse(&coder, y.data(), cell.data(), lower.data(), width.data(),
                                          back.data(), count, 18, 1);
    report("back", error, back == x);
    error = vflow_cpu_coder_cells(&coder, x.data(), lower.data(), width.data(), y.data(), count, 18, 2);
    report("coder's cells again", error, digest(y));
  }
  std::vector<int64_t> factor(count), shift(count, 19), offset = wholes(count, 33);
  for (int64_t& f : factor)
    f = (random_word() & 1 ? 1 : -1) * static_cast<int64_t>(random_word() % 1000000 + 1);
  int error = vflow_cpu_coder_scale(&coder, x.data(), factor.data(), shift.data(), offset.data(), y.data(),
                                    count, count, 2);
  report("scale", error, digest(y));
  error = vflow_cpu_coder_push_bits(&coder, wholes(count, 64).data(), 0, 20, 1);
  error |= vflow_cpu_coder_pop_bits(&coder, x.data(), count, 27, 1);
  report("bits", error, digest(x));
  report("stacks", 0, digest(lent, digest(counts, digest(states))));
}

// Mixtures so narrow that sums go to their logarithms another way, with and without the squash.
static void far_cells() {
  const int64_t count = 500;
  const auto params = reals<float>(count * 14, 9);
  const std::vector<int64_t> x = wholes(count, 36);
  std::vector<int64_t> lower(count), width(count), cell(count);
  for (const int squash : {0, 1}) {
    int error = vflow_cpu_exact_mixture_cells(VFLOW_FLOAT32, x.data(), params.data(), lower.data(),
                                              width.data(), count, 4, squash, 32, 18, 1);
    report(squash ? "far squashed cells" : "far cells", error, digest(width, digest(lower)));
    error = vflow_cpu_exact_mixture_find(VFLOW_FLOAT32, lower.data(), params.data(), cell.data(),
                                         lower.data(), width.data(), count, 4, squash, 32, 18, 2);
    bool found = true;
    for (int64_t i = 0; i < count; ++i) found &= cell[i] == x[i] >> 18;
    report("found", error, found);
  }
}

// What affine couplings, Gaussian ones and priors ask of the coder.
static void normals_and_scales() {
  const int64_t lanes = 8, capacity = 1 << 14, count = 2000;
  std::vector<uint64_t> states(lanes, (uint64_t{1} << 32) + 54321);
  std::vector<uint32_t> words(lanes * capacity);
  std::vector<int64_t> counts(lanes, 0), lent(lanes, 0);
  const vflow_coder coder{lanes, capacity, states.data(), words.data(), counts.data(), lent.data()};
  const auto x = wholes(count, 35), offset = wholes(count, 33);
  std::vector<int64_t> y(count), back(count), factor(count), shift(count, 18);
  for (int64_t& f : factor)
    f = (random_word() & 1 ? 1 : -1) * static_cast<int64_t>(random_word() % 1000000 + 1);
  for (const int64_t period : {int64_t{8}, count}) {
    int error = vflow_cpu_coder_scale(&coder, x.data(), factor.data(), shift.data(), offset.data(), y.data(),
                                      count, period, 1);
    report(period == count ? "scale of each" : "scales of channels", error, digest(y));
    error = vflow_cpu_coder_scale_inverse(&coder, y.data(), factor.data(), shift.data(), offset.data(),
                                          back.data(), count, period, 2);
    report("back", error, back == x);
  }
  std::vector<uint32_t> starts(1, 0);  // of 529 symbols, that in the middle the likeliest
  for (uint32_t i = 1; i < 529; ++i)
    starts.push_back(starts.back() + (i == 265 ? (1 << 20) - 528 * 1000 : 1000));
  starts.push_back(1 << 20);
  const auto normal = wholes(count, 36);
  int error = vflow_cpu_coder_push_normal(&coder, normal.data(), count, 32, starts.data(), 2);
  report("normal", error, digest(counts, digest(states)));
  error = vflow_cpu_coder_pop_normal(&coder, back.data(), count, 32, starts.data(), 1);
  report("back", error, back == normal);
  error = vflow_cpu_coder_pop_normal(&coder, y.data(), count, 32, starts.data(), 1);
  report("normal from bits", error, digest(y));
}

int main() {
  networks();
  maps();
  coder();
  glow();
  normals_and_scales();
  convolution("convolution by tiles", 3, 19);
  far_cells();
}
