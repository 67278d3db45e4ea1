// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
// easy as 1, 2, 3" (2011): four words of 32 bits, a function of a counter of four words and a key of two.
//
// Words lie in the low halves of lanes of 64 bits, for one uint64_t or a SIMD vector of them, and the high
// halves are of no account: the product of two words needs the room, and nothing has to be cleared between
// two rounds.
#pragma once

#include <stdint.h>

#include "math.h"

namespace vflow::VFLOW_TARGET {

// The products of lanes' low halves; dropout_factors.h has the instruction for SIMD vectors.
template <class U>
struct WideProduct {
  static VFLOW_INLINE U of(U a, U b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
};

// Replaces the counter by its four words.
template <class U>
VFLOW_INLINE void philox4x32_10(U (&counter)[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const U product0 = WideProduct<U>::of(counter[0], U{} + 0xd2511f53u);
    const U product2 = WideProduct<U>::of(counter[2], U{} + 0xcd9e8d57u);
    counter[0] = (product2 >> 32) ^ counter[1] ^ (U{} + key0);
    counter[1] = product2;
    counter[2] = (product0 >> 32) ^ counter[3] ^ (U{} + key1);
    counter[3] = product0;
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
}

}  // namespace vflow::VFLOW_TARGET
