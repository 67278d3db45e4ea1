// A coverage-guided fuzzer of the lossless coder and the exact maps (libFuzzer; scripts/fuzz.sh builds and
// runs it).
//
// What it is given becomes a coder's stacks and some operations on arrays of numbers. No memory may be
// touched that is not its own, nothing may be undefined, and an operation that succeeds must be undone by its
// inverse: numbers, states and words alike.
#include <fuzzer/FuzzedDataProvider.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "../../csrc/vflow.h"

using Wholes = std::vector<int64_t>;

static void require(bool good, const char* what) {
  if (good) return;
  fprintf(stderr, "not so: %s\n", what);
  abort();
}

struct Stacks {
  int64_t lanes, capacity;
  std::vector<uint64_t> states;
  std::vector<uint32_t> words;
  Wholes counts, lent;
  bool lend;

  explicit Stacks(FuzzedDataProvider& data)
      : lanes(data.ConsumeIntegralInRange<int64_t>(1, 9)),
        capacity(data.ConsumeIntegralInRange<int64_t>(0, 40)),
        words(lanes * capacity),
        lent(lanes, 0),
        lend(data.ConsumeBool()) {
    for (uint32_t& word : words) word = data.ConsumeIntegral<uint32_t>();
    for (int64_t lane = 0; lane < lanes; ++lane) {
      states.push_back(data.ConsumeIntegral<uint64_t>() | uint64_t{1} << data.ConsumeIntegralInRange(32, 63));
      counts.push_back(data.ConsumeIntegralInRange<int64_t>(0, capacity));
    }
  }
  vflow_coder coder() {
    return {lanes, capacity, states.data(), words.data(), counts.data(), lend ? lent.data() : nullptr};
  }
  // What is on the stacks, those words left out that were lent in the meantime and given back.
  std::string content(const Stacks& before) const {
    std::string all;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t given = lent[lane] - before.lent[lane];
      all.append(reinterpret_cast<const char*>(&states[lane]), 8);
      all.append(reinterpret_cast<const char*>(&words[lane * capacity + given]), 4 * (counts[lane] - given));
      all += '|';
    }
    return all;
  }
};

// A whole number of any size, small ones and ends more often than chance has them.
static int64_t number(FuzzedDataProvider& data) {
  const int bits = data.ConsumeIntegralInRange(0, 64);
  const int64_t all = data.ConsumeIntegral<int64_t>();
  return bits == 0 ? 0 : all >> (64 - bits);
}
static Wholes numbers(FuzzedDataProvider& data, size_t count) {
  Wholes all(count);
  for (int64_t& one : all) one = number(data);
  return all;
}
template <class T>
static std::vector<T> reals(FuzzedDataProvider& data, size_t count) {
  std::vector<T> all(count);
  for (T& one : all) {
    const int kind = data.ConsumeIntegralInRange(0, 9);
    const double fraction = static_cast<double>(data.ConsumeIntegral<int32_t>()) / 2147483648.0;
    if (kind < 6) one = static_cast<T>(fraction * (kind < 3 ? 4 : 40));
    if (kind == 6) one = static_cast<T>(ldexp(fraction, data.ConsumeIntegralInRange(-200, 200)));
    if (kind == 7) one = static_cast<T>(fraction < 0 ? -INFINITY : INFINITY);
    if (kind == 8) one = static_cast<T>(NAN);
    if (kind == 9) {
      const uint64_t bits = data.ConsumeIntegral<uint64_t>();
      memcpy(&one, &bits, sizeof(one));
    }
  }
  return all;
}

// As coder.cpp has them: 529 masses, none of them 0, that fill 2^20.
static std::vector<uint32_t> normal_starts(uint32_t middle) {
  std::vector<uint32_t> starts(1, 0);
  const uint32_t each = ((1u << 20) - middle) / 528;
  for (int i = 0; i < 528; ++i) starts.push_back(starts.back() + (i == 260 ? middle : each));
  starts.push_back(1u << 20);
  return starts;
}

static void mixture(FuzzedDataProvider& data, Stacks& stacks, size_t count, int threads) {
  const int64_t components = data.ConsumeIntegralInRange<int64_t>(1, 5);
  const int squash = data.ConsumeBool(), grid = data.ConsumeIntegralInRange(0, 36);
  const int cell_bits = data.ConsumeIntegralInRange(0, 34);
  const Wholes x = numbers(data, count);
  const bool narrow = data.ConsumeBool();
  const auto floats = reals<float>(data, narrow ? count * (2 + 3 * components) : 0);
  const auto doubles = reals<double>(data, narrow ? 0 : count * (2 + 3 * components));
  const void* params = narrow ? static_cast<const void*>(floats.data()) : doubles.data();
  const int dtype = narrow ? VFLOW_FLOAT32 : VFLOW_FLOAT64;
  Wholes lower(count), width(count), y(count), cell(count), found_lower(count), found_width(count),
      back(count);
  const Stacks before = stacks;
  const vflow_coder coder = stacks.coder();
  if (vflow_cpu_exact_mixture_find(dtype, x.data(), params, cell.data(), lower.data(), width.data(), count,
                                   components, squash, grid, cell_bits, threads) == VFLOW_OK)
    for (size_t i = 0; i < count; ++i)
      require(width[i] == 0 || (x[i] >= lower[i] && x[i] - lower[i] < width[i]),
              "a number lies in the cell found");
  if (vflow_cpu_exact_mixture_cells(dtype, x.data(), params, lower.data(), width.data(), count, components,
                                    squash, grid, cell_bits, threads) != VFLOW_OK)
    return;
  if (vflow_cpu_coder_cells(&coder, x.data(), lower.data(), width.data(), y.data(), count, cell_bits,
                            threads))
    return;
  if (vflow_cpu_exact_mixture_find(dtype, y.data(), params, cell.data(), found_lower.data(),
                                   found_width.data(), count, components, squash, grid, cell_bits,
                                   threads) != VFLOW_OK)
    return;  // landed beyond what can be asked
  // As the coder uses it, all that has landed is found again.
  if (grid != 32 || cell_bits != 18) return;
  for (size_t i = 0; i < count; ++i) {
    if (x[i] < -(int64_t{1} << 42) || x[i] > int64_t{1} << 42) return;
    require(cell[i] == x[i] >> cell_bits && found_lower[i] == lower[i] && found_width[i] == width[i],
            "the cell is found again");
  }
  if (vflow_cpu_coder_cells_inverse(&coder, y.data(), cell.data(), found_lower.data(), found_width.data(),
                                    back.data(), count, cell_bits, threads))
    return;
  require(back == x && stacks.content(before) == before.content(before), "cells are undone");
}

static void cells(FuzzedDataProvider& data, Stacks& stacks, size_t count, int threads) {
  const int bits = data.ConsumeIntegralInRange(-1, 34);
  const Wholes x = numbers(data, count), lower = numbers(data, count);
  Wholes width(count), y(count), back(count), cell(count);
  for (int64_t& one : width)
    one = data.ConsumeBool() ? number(data) : data.ConsumeIntegralInRange<int64_t>(1, int64_t{1} << 31);
  const Stacks before = stacks;
  const vflow_coder coder = stacks.coder();
  // What is beyond the places that layers ask for would overflow.
  for (const int64_t one : lower)
    if (one < -(int64_t{1} << 60) || one > int64_t{1} << 60) return;
  if (data.ConsumeBool()) {
    vflow_cpu_coder_cells_inverse(&coder, x.data(), lower.data(), lower.data(), width.data(), y.data(), count,
                                  bits, threads);
    return;
  }
  if (vflow_cpu_coder_cells(&coder, x.data(), lower.data(), width.data(), y.data(), count, bits, threads))
    return;
  for (size_t i = 0; i < count; ++i) cell[i] = x[i] >> bits;
  if (vflow_cpu_coder_cells_inverse(&coder, y.data(), cell.data(), lower.data(), width.data(), back.data(),
                                    count, bits, threads))
    return;
  require(back == x && stacks.content(before) == before.content(before), "cells are undone");
}

static void scale(FuzzedDataProvider& data, Stacks& stacks, size_t count, int threads) {
  const int64_t period = data.ConsumeIntegralInRange<int64_t>(0, count + 1);
  const Wholes x = numbers(data, count);
  Wholes factor(period), shift(period), offset(period), y(count), back(count);
  for (int64_t j = 0; j < period; ++j) {
    factor[j] = data.ConsumeIntegralInRange<int64_t>(-(1 << 20), 1 << 20);
    shift[j] = data.ConsumeIntegralInRange<int64_t>(-1, 63);
    offset[j] = number(data);
  }
  const Stacks before = stacks;
  const vflow_coder coder = stacks.coder();
  if (data.ConsumeBool()) {
    vflow_cpu_coder_scale_inverse(&coder, x.data(), factor.data(), shift.data(), offset.data(), y.data(),
                                  count, period, threads);
    return;
  }
  if (vflow_cpu_coder_scale(&coder, x.data(), factor.data(), shift.data(), offset.data(), y.data(), count,
                            period, threads))
    return;
  const int error = vflow_cpu_coder_scale_inverse(&coder, y.data(), factor.data(), shift.data(),
                                                  offset.data(), back.data(), count, period, threads);
  require(error != VFLOW_ERROR_CODER_RANGE, "what was scaled can be undone");
  if (error) return;
  require(back == x && stacks.content(before) == before.content(before), "a scale is undone");
}

static void normal(FuzzedDataProvider& data, Stacks& stacks, size_t count, int threads) {
  auto starts = normal_starts(data.ConsumeIntegralInRange<uint32_t>(1, 1u << 19));
  if (data.ConsumeIntegralInRange(0, 9) == 0)
    starts[data.ConsumeIntegralInRange<size_t>(0, starts.size() - 1)] = data.ConsumeIntegral<uint32_t>();
  const int grid = data.ConsumeIntegralInRange(31, 35);
  const Stacks before = stacks;
  const vflow_coder coder = stacks.coder();
  Wholes x = numbers(data, count), back(count);
  if (data.ConsumeBool()) {
    if (vflow_cpu_coder_push_normal(&coder, x.data(), count, grid, starts.data(), threads)) return;
    if (vflow_cpu_coder_pop_normal(&coder, back.data(), count, grid, starts.data(), threads)) return;
    require(back == x, "a normal number comes back");
  } else {
    if (vflow_cpu_coder_pop_normal(&coder, x.data(), count, grid, starts.data(), threads)) return;
    if (vflow_cpu_coder_push_normal(&coder, x.data(), count, grid, starts.data(), threads)) return;
  }
  require(stacks.content(before) == before.content(before), "normal numbers are undone");
}

static void bits(FuzzedDataProvider& data, Stacks& stacks, size_t count, int threads) {
  const int many = data.ConsumeIntegralInRange(-1, 34);
  const Stacks before = stacks;
  const vflow_coder coder = stacks.coder();
  Wholes x(count);
  if (data.ConsumeBool()) {
    x = numbers(data, count);
    Wholes back(count);
    if (vflow_cpu_coder_push_bits(&coder, x.data(), count, many, threads)) return;
    if (vflow_cpu_coder_pop_bits(&coder, back.data(), count, many, threads)) return;
    require(back == x, "bits come back");
  } else {
    if (vflow_cpu_coder_pop_bits(&coder, x.data(), count, many, threads)) return;
    if (vflow_cpu_coder_push_bits(&coder, x.data(), count, many, threads)) return;
  }
  require(stacks.content(before) == before.content(before), "bits are undone");
}

static void lift(FuzzedDataProvider& data, size_t count, int threads) {
  const int64_t channels = data.ConsumeIntegralInRange<int64_t>(0, 7);
  const int upper = data.ConsumeIntegralInRange(0, 2);
  Wholes rows = numbers(data, count * channels);
  const auto matrix = reals<double>(data, channels * channels);
  const Wholes before = rows;
  if (vflow_cpu_exact_lift(rows.data(), matrix.data(), count, channels, upper, 0, threads)) return;
  // Sums that doubles do not hold cannot come back, and the coder asks for none.
  for (const double one : matrix)
    if (!(fabs(one) < 64)) return;
  for (size_t i = 0; i < rows.size(); ++i)
    if (llabs(before[i]) > int64_t{1} << 40 || llabs(rows[i]) > int64_t{1} << 44) return;
  if (vflow_cpu_exact_lift(rows.data(), matrix.data(), count, channels, upper, 1, threads)) return;
  require(rows == before, "a triangle is undone");
}

static void function(FuzzedDataProvider& data, size_t count, int threads) {
  const int which = data.ConsumeIntegralInRange(-1, 4);
  const auto x = reals<double>(data, count);
  std::vector<double> y(count);
  vflow_cpu_exact_function(which, x.data(), y.data(), count, threads);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  Stacks stacks(data);
  const int threads = data.ConsumeIntegralInRange(0, 1);
  for (int round = 0; round < 4 && data.remaining_bytes() > 0; ++round) {
    const size_t count = data.ConsumeIntegralInRange<size_t>(0, 19);
    switch (data.ConsumeIntegralInRange(0, 6)) {
      case 0:
        mixture(data, stacks, count, threads);
        break;
      case 1:
        cells(data, stacks, count, threads);
        break;
      case 2:
        scale(data, stacks, count, threads);
        break;
      case 3:
        normal(data, stacks, count, threads);
        break;
      case 4:
        bits(data, stacks, count, threads);
        break;
      case 5:
        lift(data, count, threads);
        break;
      default:
        function(data, count, threads);
    }
  }
  return 0;
}
