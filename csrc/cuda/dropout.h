// Dropout's factors for a column of four rows, which share their Philox counter.
#pragma once

#include "math.h"
// After math.h, which names the namespace.
#include "../common/dropout_rate.h"
#include "../common/philox.h"
#include "runs.h"

namespace vflow::cuda {

template <class R>
class DropoutFactors {
 public:
  // The seed lies in the device's memory, so that a captured graph finds another at every replay.
  __device__ __forceinline__ DropoutFactors(const int64_t* __restrict__ seed, const DropoutRate& rate)
      : key_{static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1])},
        threshold_(rate.threshold),
        scale_(static_cast<R>(rate.scale)) {}

  __device__ __forceinline__ void draw(int64_t counter, R (&factors)[4]) const {
    const uint64_t count = static_cast<uint64_t>(counter);
    uint64_t words[4] = {count, count >> 32, 0, 0};
    philox4x32_10(words, key_[0], key_[1]);
    for (int row = 0; row < 4; ++row)
      factors[row] = static_cast<uint32_t>(words[row]) >= threshold_ ? scale_ : 0;
  }

 private:
  uint32_t key_[2], threshold_;
  R scale_;
};

inline int check_dropout(int dtype, int64_t rows, int64_t channels, double dropout) {
  const int error = check_rows(dtype, rows, channels);
  return error || DropoutRate::valid(dropout) ? error : VFLOW_ERROR_DROPOUT;
}

}  // namespace vflow::cuda
