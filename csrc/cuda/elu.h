// elu of a number and of its negative.
#pragma once

#include "math.h"

namespace vflow::cuda {

// What becomes of x and of -x; or what has come back to them.
template <class R>
struct Halves {
  R same, opposite;
};

template <class R>
__device__ __forceinline__ Halves<R> halves_of(R x) {
  const R below = expm1_bounded(-magnitude(x));
  return {x > 0 ? x : below, x > 0 ? below : -x};
}

template <class R>
__device__ __forceinline__ R gradient_of(R x, Halves<R> grad) {
  // The derivative is 1 on the positive side of each half and exp(-|x|) on its negative one.
  const R slope = exp_of_rounded(-magnitude(x));
  return x > 0 ? grad.same - grad.opposite * slope : grad.same * slope - grad.opposite;
}

}  // namespace vflow::cuda
