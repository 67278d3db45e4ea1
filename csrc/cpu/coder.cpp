// The coder of lossless compression: maps of whole numbers that take bits from stacks and give bits back.
//
// An array's numbers are shared among the lanes of a coder in runs of one after the other, each lane with a
// stack of its own; lanes, not threads, decide what goes where. The forward functions go through the numbers
// in order and the backward ones the other way round, so that each undoes the other.
#include <string.h>

#include "../common/bit_stack.h"
#include "../vflow.h"

#include "parallel.h"

namespace vflow {

constexpr int kGroup = 2;  // lanes of a thread at a time: none waits for the other's divisions
constexpr int64_t kMostLanes = 64;

static int check(const vflow_coder* coder, int64_t count, int threads) {
  if (!coder || !coder->states || !coder->words || !coder->counts) return VFLOW_ERROR_NULL_POINTER;
  if (count < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (coder->lanes < 1 || coder->lanes > kMostLanes || coder->capacity < 0) return VFLOW_ERROR_CODER;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  for (int64_t lane = 0; lane < coder->lanes; ++lane) {
    if (coder->counts[lane] < 0 || coder->counts[lane] > coder->capacity) return VFLOW_ERROR_CODER;
    if (coder->states[lane] < kLeastState) return VFLOW_ERROR_CODER;
  }
  return VFLOW_OK;
}

// Calls step(stack, i) for every i below `count`, with the stack of the lane that i belongs to; each lane's
// in order, or from its last to its first.
template <bool backward, class Step>
static int for_lanes(const vflow_coder* coder, int64_t count, int threads, const Step& step) {
  int error = check(coder, count, threads);
  if (error) return error;
  const int64_t lanes = coder->lanes, groups = (lanes + kGroup - 1) / kGroup;
  const auto first = [&](int64_t lane) {
    return static_cast<int64_t>(static_cast<__int128>(count) * lane / lanes);
  };
  int errors[kMostLanes] = {};
  parallel_for(groups, threads_for(groups, threads), [&](int64_t group, int) {
    BitStack stacks[kGroup];
    int64_t begin[kGroup], size[kGroup];
    const int64_t lane0 = group * kGroup, width = lanes - lane0 < kGroup ? lanes - lane0 : kGroup;
    int64_t common = INT64_MAX;
    for (int64_t g = 0; g < width; ++g) {
      const int64_t lane = lane0 + g;
      stacks[g] = {coder->states[lane],
                   coder->words + lane * coder->capacity,
                   coder->counts[lane],
                   coder->capacity,
                   static_cast<uint64_t>(lane),
                   coder->lent ? coder->lent[lane] : 0,
                   coder->lent != nullptr,
                   false,
                   false,
                   false};
      begin[g] = first(lane);
      size[g] = first(lane + 1) - begin[g];
      common = size[g] < common ? size[g] : common;
    }
    const auto run = [&](int64_t g, int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) step(stacks[g], begin[g] + (backward ? size[g] - 1 - i : i));
    };
    if (width == kGroup) {
      for (int64_t i = 0; i < common; ++i)
        for (int64_t g = 0; g < kGroup; ++g) step(stacks[g], begin[g] + (backward ? size[g] - 1 - i : i));
      for (int64_t g = 0; g < kGroup; ++g) run(g, common, size[g]);
    } else {
      for (int64_t g = 0; g < width; ++g) run(g, 0, size[g]);
    }
    for (int64_t g = 0; g < width; ++g) {
      const int64_t lane = lane0 + g;
      coder->states[lane] = stacks[g].state;
      coder->counts[lane] = stacks[g].count;
      if (coder->lent) coder->lent[lane] = stacks[g].lent;
      if (stacks[g].underflow) errors[lane] = VFLOW_ERROR_CODER_EMPTY;
      if (stacks[g].overflow) errors[lane] = VFLOW_ERROR_CODER_FULL;
      if (stacks[g].beyond) errors[lane] = VFLOW_ERROR_CODER_RANGE;
    }
  });
  for (int64_t lane = 0; lane < lanes && !error; ++lane) error = errors[lane];
  return error;
}

static bool any_outside(const int64_t* numbers, int64_t count, int64_t least, int64_t most) {
  bool outside = false;
  for (int64_t i = 0; i < count; ++i) outside |= numbers[i] < least || numbers[i] > most;
  return outside;
}

// A number of the standard normal distribution: the bin it lies in, then its place there. Bins are
// 2^-6 wide up to 4 and 2^-2 wide up to 6; for what is further out see push_far.
struct NormalBins {
  static constexpr int kFine = 6, kCoarse = 2, kNear = 4, kFar = 6;
  static constexpr int kTail = (kFar - kNear) << kCoarse, kCore = (2 * kNear) << kFine;
  static constexpr int kEscape = 2 * kTail + kCore, kSymbols = kEscape + 1;
  int grid;  // bits after the point

  int64_t at(int z) const { return static_cast<int64_t>(z) * (int64_t{1} << grid); }
  int symbol(int64_t x) const {
    if (x >= at(-kNear) && x < at(kNear)) return kTail + static_cast<int>((x - at(-kNear)) >> (grid - kFine));
    if (x >= at(kFar) || x < at(-kFar)) return kEscape;
    if (x < 0) return static_cast<int>((x - at(-kFar)) >> (grid - kCoarse));
    return kTail + kCore + static_cast<int>((x - at(kNear)) >> (grid - kCoarse));
  }
  // As many as reach the ends of 64 bits, and no further.
  int stretches() const { return 66 - grid; }
  bool is_core(int symbol) const { return symbol >= kTail && symbol < kTail + kCore; }
  int width_bits(int symbol) const { return grid - (is_core(symbol) ? kFine : kCoarse); }
  int64_t lower(int symbol) const {
    if (is_core(symbol)) return at(-kNear) + (static_cast<int64_t>(symbol - kTail) << (grid - kFine));
    if (symbol < kTail) return at(-kFar) + (static_cast<int64_t>(symbol) << (grid - kCoarse));
    return at(kNear) + (static_cast<int64_t>(symbol - kTail - kCore) << (grid - kCoarse));
  }
};

// What is beyond the bins: its sign, then in which of the stretches of 1, 2, 4, ... coarse bins it lies, each
// a sixteenth as likely as the one before, then its place there. So every number has a code, and what is
// popped by chance is hardly ever far from the bins.
constexpr uint64_t kFurther = 15;  // of the numbers below 16: on to the next stretch
constexpr uint64_t kMostNormal = (uint64_t{1} << 62) - 1;

static void push_far(BitStack& stack, const NormalBins& bins, int64_t number) {
  const uint64_t end = static_cast<uint64_t>(bins.at(NormalBins::kFar));
  const bool negative = number < 0;
  const uint64_t beyond = (negative ? ~static_cast<uint64_t>(number) : static_cast<uint64_t>(number)) - end;
  const int coarse = bins.grid - NormalBins::kCoarse;
  const int stretch = 63 - __builtin_clzll((beyond >> coarse) + 1), bits = coarse + stretch;
  const uint64_t place = beyond - (((uint64_t{1} << stretch) - 1) << coarse);
  const int low = bits < kWordBits ? bits : kWordBits;
  stack.push_bits(low, place & ((uint64_t{1} << low) - 1));
  if (bits > low) stack.push_bits(bits - low, place >> low);
  // Which of the other fifteen it is says nothing: that is taken from the stack, and given back.
  if (stretch < bins.stretches() - 1) stack.push(16, stack.pop(kFurther));
  for (int i = 0; i < stretch; ++i) stack.push(16, kFurther);
  stack.push_bits(1, negative);
}

static int64_t pop_far(BitStack& stack, const NormalBins& bins) {
  const bool negative = stack.pop_bits(1) != 0;
  int stretch = 0;
  for (; stretch < bins.stretches() - 1; ++stretch) {
    const uint64_t digit = stack.pop(16);
    if (digit == kFurther) continue;
    stack.push(kFurther, digit);
    break;
  }
  const int coarse = bins.grid - NormalBins::kCoarse, bits = coarse + stretch;
  const int low = bits < kWordBits ? bits : kWordBits;
  uint64_t place = bits > low ? stack.pop_bits(bits - low) << low : 0;
  place |= stack.pop_bits(low);
  const uint64_t start =
      (((uint64_t{1} << stretch) - 1) << coarse) + static_cast<uint64_t>(bins.at(NormalBins::kFar));
  stack.beyond |= start > kMostNormal || place > kMostNormal - start;
  const int64_t number = static_cast<int64_t>((start + place) & kMostNormal);
  return negative ? ~number : number;
}

static int check_starts(const uint32_t* starts) {
  if (!starts) return VFLOW_ERROR_NULL_POINTER;
  if (starts[0] != 0 || starts[NormalBins::kSymbols] != uint32_t{1} << kMassBits) return VFLOW_ERROR_CODER;
  for (int i = 0; i < NormalBins::kSymbols; ++i)
    if (starts[i] >= starts[i + 1]) return VFLOW_ERROR_CODER;
  return VFLOW_OK;
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_coder_push_bits(const vflow_coder* coder, const int64_t* numbers, int64_t count, int bits,
                              int threads) {
  if (bits < 0 || bits > kWordBits) return VFLOW_ERROR_CODER;
  if (count > 0 && !numbers) return VFLOW_ERROR_NULL_POINTER;
  if (any_outside(numbers, count, 0, (int64_t{1} << bits) - 1)) return VFLOW_ERROR_CODER_RANGE;
  return for_lanes<true>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    stack.push_bits(bits, static_cast<uint64_t>(numbers[i]));
  });
}

int vflow_cpu_coder_pop_bits(const vflow_coder* coder, int64_t* numbers, int64_t count, int bits,
                             int threads) {
  if (bits < 0 || bits > kWordBits) return VFLOW_ERROR_CODER;
  if (count > 0 && !numbers) return VFLOW_ERROR_NULL_POINTER;
  return for_lanes<false>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    numbers[i] = static_cast<int64_t>(stack.pop_bits(bits));
  });
}

int vflow_cpu_coder_push_normal(const vflow_coder* coder, const int64_t* numbers, int64_t count, int grid,
                                const uint32_t* starts, int threads) {
  if (grid < 32 || grid > 34) return VFLOW_ERROR_CODER;
  if (count > 0 && !numbers) return VFLOW_ERROR_NULL_POINTER;
  if (const int error = check_starts(starts)) return error;
  const int64_t most = static_cast<int64_t>(kMostNormal);
  if (any_outside(numbers, count, -most - 1, most)) return VFLOW_ERROR_CODER_RANGE;
  const NormalBins bins{grid};
  return for_lanes<true>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    const int64_t number = numbers[i];
    const int symbol = bins.symbol(number);
    if (symbol == NormalBins::kEscape) {
      push_far(stack, bins, number);
    } else {
      stack.push_bits(bins.width_bits(symbol), static_cast<uint64_t>(number - bins.lower(symbol)));
    }
    stack.push_symbol(starts[symbol], starts[symbol + 1] - starts[symbol]);
  });
}

int vflow_cpu_coder_pop_normal(const vflow_coder* coder, int64_t* numbers, int64_t count, int grid,
                               const uint32_t* starts, int threads) {
  if (grid < 32 || grid > 34) return VFLOW_ERROR_CODER;
  if (count > 0 && !numbers) return VFLOW_ERROR_NULL_POINTER;
  if (const int error = check_starts(starts)) return error;
  // The symbol that holds the first of every 256 slots.
  constexpr int kStep = 8;
  uint16_t guide[1 << (kMassBits - kStep)];
  int holder = 0;
  for (uint32_t i = 0; i < 1u << (kMassBits - kStep); ++i) {
    while (starts[holder + 1] <= i << kStep) ++holder;
    guide[i] = static_cast<uint16_t>(holder);
  }
  const NormalBins bins{grid};
  return for_lanes<false>(coder, count, threads, [&](BitStack& stack, int64_t i) {
    const uint64_t slot = stack.slot();
    int symbol = guide[slot >> kStep];
    while (starts[symbol + 1] <= slot) ++symbol;
    stack.pop_symbol(starts[symbol], starts[symbol + 1] - starts[symbol]);
    if (symbol == NormalBins::kEscape) {
      numbers[i] = pop_far(stack, bins);
    } else {
      numbers[i] = bins.lower(symbol) + static_cast<int64_t>(stack.pop_bits(bins.width_bits(symbol)));
    }
  });
}

static int check_cells(const int64_t* x, const int64_t* lower, const int64_t* width, int64_t count,
                       int cell_bits) {
  if (cell_bits < 0 || cell_bits > kWordBits) return VFLOW_ERROR_CODER;
  if (count > 0 && (!x || !lower || !width)) return VFLOW_ERROR_NULL_POINTER;
  if (any_outside(width, count, 1, int64_t{1} << 31)) return VFLOW_ERROR_CODER_RANGE;
  return VFLOW_OK;
}

int vflow_cpu_coder_cells(const vflow_coder* coder, const int64_t* x, const int64_t* lower,
                          const int64_t* width, int64_t* y, int64_t count, int cell_bits, int threads) {
  if (const int error = check_cells(x, lower, width, count, cell_bits)) return error;
  if (count > 0 && !y) return VFLOW_ERROR_NULL_POINTER;
  const uint64_t mask = (uint64_t{1} << cell_bits) - 1;
  return for_lanes<false>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    const uint64_t base = static_cast<uint64_t>(width[i]), offset = static_cast<uint64_t>(x[i]) & mask;
    const uint64_t total = offset * base + stack.pop(base);
    y[i] = lower[i] + static_cast<int64_t>(total >> cell_bits);
    stack.push_bits(cell_bits, total & mask);
  });
}

int vflow_cpu_coder_cells_inverse(const vflow_coder* coder, const int64_t* y, const int64_t* cell,
                                  const int64_t* lower, const int64_t* width, int64_t* x, int64_t count,
                                  int cell_bits, int threads) {
  if (const int error = check_cells(y, lower, width, count, cell_bits)) return error;
  if (count > 0 && (!x || !cell)) return VFLOW_ERROR_NULL_POINTER;
  bool outside = false;
  for (int64_t i = 0; i < count; ++i)
    outside |=
        static_cast<uint64_t>(y[i]) - static_cast<uint64_t>(lower[i]) >= static_cast<uint64_t>(width[i]);
  if (outside) return VFLOW_ERROR_CODER_RANGE;
  return for_lanes<true>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    const uint64_t base = static_cast<uint64_t>(width[i]);
    const uint64_t total = static_cast<uint64_t>(y[i] - lower[i]) << cell_bits | stack.pop_bits(cell_bits);
    const uint64_t offset = total / base;
    stack.push(base, total - offset * base);
    x[i] = static_cast<int64_t>((static_cast<uint64_t>(cell[i]) << cell_bits) + offset);
  });
}

// Numbers that a factor below 2^kFactorBits can multiply.
constexpr int kFactorBits = 20;
constexpr int64_t kMostScaled = int64_t{1} << 42, kMostShifted = int64_t{1} << 50;

// The remainder by a number, without a division where a multiplication does.
struct Modulus {
  uint64_t period, inverse;  // 2^64 / period, rounded up
  bool small;                // what it is asked about is: below 2^32, as the period is

  Modulus(int64_t number, int64_t end)
      : period(static_cast<uint64_t>(number)), inverse(~uint64_t{0} / period + 1), small(end < kWordEnd) {}
  inline int64_t of(int64_t i) const {
    if (!small || period == 1) return period == 1 ? 0 : i % static_cast<int64_t>(period);
    const uint64_t quotient =
        static_cast<uint64_t>(static_cast<unsigned __int128>(inverse) * static_cast<uint64_t>(i) >> 64);
    return i - static_cast<int64_t>(quotient * period);
  }
  static constexpr int64_t kWordEnd = int64_t{1} << 32;
};

static int check_scale(const int64_t* x, const int64_t* factor, const int64_t* shift, const int64_t* offset,
                       int64_t count, int64_t period) {
  if (count > 0 && (!x || !factor || !shift || !offset)) return VFLOW_ERROR_NULL_POINTER;
  if (period < 1 || count < 0 || count % period != 0) return VFLOW_ERROR_ROWS;
  for (int64_t i = 0; i < period && count > 0; ++i) {
    const int64_t size = factor[i] < 0 ? -factor[i] : factor[i];
    if (size < 1 || size >= int64_t{1} << kFactorBits || shift[i] < 0 || shift[i] > 2 * kWordBits - 2 ||
        offset[i] < -kMostShifted || offset[i] > kMostShifted)
      return VFLOW_ERROR_CODER_RANGE;
  }
  return VFLOW_OK;
}

int vflow_cpu_coder_scale(const vflow_coder* coder, const int64_t* x, const int64_t* factor,
                          const int64_t* shift, const int64_t* offset, int64_t* y, int64_t count,
                          int64_t period, int threads) {
  if (const int error = check_scale(x, factor, shift, offset, count, period)) return error;
  if (count > 0 && !y) return VFLOW_ERROR_NULL_POINTER;
  if (any_outside(x, count, -kMostScaled, kMostScaled)) return VFLOW_ERROR_CODER_RANGE;
  // What becomes too large to be undone.
  bool outside = false;
  for (const int64_t* row = x; row < x + count; row += period)
    for (int64_t j = 0; j < period; ++j) {
      const int64_t size = factor[j] < 0 ? -factor[j] : factor[j], far = row[j] < 0 ? -row[j] : row[j];
      outside |= far * size >> shift[j] > 2 * kMostShifted;
    }
  if (outside) return VFLOW_ERROR_CODER_RANGE;
  const Modulus modulus(period, count);
  return for_lanes<false>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    const int64_t j = modulus.of(i), f = factor[j], size = f < 0 ? -f : f;
    const int bits = static_cast<int>(shift[j]), low = bits < kWordBits ? bits : kWordBits;
    const int64_t rest = static_cast<int64_t>(stack.pop(static_cast<uint64_t>(size)));
    const int64_t total = (f < 0 ? -x[i] : x[i]) * size + rest;
    stack.push_bits(low, static_cast<uint64_t>(total) & ((uint64_t{1} << low) - 1));
    if (bits > low)
      stack.push_bits(bits - low, static_cast<uint64_t>(total) >> low & ((uint64_t{1} << (bits - low)) - 1));
    y[i] = (total >> bits) + offset[j];
  });
}

int vflow_cpu_coder_scale_inverse(const vflow_coder* coder, const int64_t* y, const int64_t* factor,
                                  const int64_t* shift, const int64_t* offset, int64_t* x, int64_t count,
                                  int64_t period, int threads) {
  if (const int error = check_scale(y, factor, shift, offset, count, period)) return error;
  if (count > 0 && !x) return VFLOW_ERROR_NULL_POINTER;
  if (any_outside(y, count, -4 * kMostShifted, 4 * kMostShifted)) return VFLOW_ERROR_CODER_RANGE;
  bool outside = false;
  for (const int64_t* row = y; row < y + count; row += period)
    for (int64_t j = 0; j < period; ++j) {
      const int64_t bits = shift[j], most = bits >= 62 ? 0 : kMostScaled << kFactorBits >> bits;
      const int64_t moved = row[j] - offset[j];
      outside |= moved < -most - 1 || moved > most;
    }
  if (outside) return VFLOW_ERROR_CODER_RANGE;
  const Modulus modulus(period, count);
  return for_lanes<true>(coder, count, threads, [=](BitStack& stack, int64_t i) {
    const int64_t j = modulus.of(i), f = factor[j], size = f < 0 ? -f : f;
    const int bits = static_cast<int>(shift[j]), low = bits < kWordBits ? bits : kWordBits;
    uint64_t total = static_cast<uint64_t>(y[i] - offset[j]) << bits;
    if (bits > low) total |= stack.pop_bits(bits - low) << low;
    total |= stack.pop_bits(low);
    const int64_t number = static_cast<int64_t>(total);
    int64_t quotient = number / size, rest = number - quotient * size;
    if (rest < 0) {
      rest += size;
      --quotient;
    }
    stack.push(static_cast<uint64_t>(size), static_cast<uint64_t>(rest));
    x[i] = f < 0 ? -quotient : quotient;
  });
}
