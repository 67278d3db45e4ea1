// What dropout is asked to do, and the factors 0 and 1 / (1 - p) that come of it. vflow/ops/dropout.py says
// which element is dropped.
#pragma once

#include <stdint.h>

#include "arrays.h"

namespace vflow {

struct DropoutRule {
  uint32_t key[2], threshold;
  double scale;

  static constexpr bool valid(double dropout) { return dropout >= 0 && dropout < 1; }
  // `seed` holds two words of 32 bits.
  DropoutRule(const int64_t* seed, double dropout)
      : key{static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1])},
        threshold(static_cast<uint32_t>(dropout * 0x1p32)),
        scale(1 / (1 - dropout)) {}
};

}  // namespace vflow
