// A probability of dropout as the kernels take it. vflow/ops/dropout.py says which element is dropped.
#pragma once

#include <stdint.h>

namespace vflow {

struct DropoutRate {
  uint32_t threshold;  // words below it are dropped
  double scale;        // of what is kept

  static constexpr bool valid(double dropout) { return dropout >= 0 && dropout < 1; }
  explicit DropoutRate(double dropout)
      : threshold(static_cast<uint32_t>(dropout * 0x1p32)), scale(1 / (1 - dropout)) {}
};

}  // namespace vflow
