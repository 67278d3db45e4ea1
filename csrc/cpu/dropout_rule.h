// What dropout is asked to do, and the factors 0 and 1 / (1 - p) that come of it. vflow/ops/dropout.py says
// which element is dropped.
#pragma once

#include <stdint.h>

#include "../common/dropout_rate.h"
#include "arrays.h"

namespace vflow {

struct DropoutRule : DropoutRate {
  uint32_t key[2];

  // `seed` holds two words of 32 bits.
  DropoutRule(const int64_t* seed, double dropout)
      : DropoutRate(dropout), key{static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1])} {}
};

}  // namespace vflow
