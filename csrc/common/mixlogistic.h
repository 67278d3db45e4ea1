// Mathematics of the mixture-of-logistics transform of one element, or of a SIMD vector of elements.
#pragma once

#include <stdint.h>

#include "math.h"

namespace vflow::VFLOW_TARGET {

template <class V>
struct Transformed {
  V y;
  V log_derivative;
};

// params: a before its tanh, b, K logits, K means, K log-scales, each `V`; the means and the log-scales are
// overwritten. Weights stay unnormalised until the end: sums of w sigmoid(z), w sigmoid(-z) and w.
template <class V>
VFLOW_INLINE Transformed<V> mixlogistic(V x, V* params, int64_t components) {
  const V one = splat<V>(1), floor = splat<V>(0.05), span = splat<V>(0.9);
  const V* logits = params + 2;
  V* means = params + 2 + components;
  V* log_scales = means + components;

  V top = logits[0];
  for (int64_t k = 1; k < components; ++k) top = larger(logits[k], top);

  V total{}, below{}, above{}, peak = splat<V>(Format<V>::lowest);
  for (int64_t k = 0; k < components; ++k) {
    const V log_scale = log_scales[k] < splat<V>(-7) ? splat<V>(-7) : log_scales[k];
    const V z = (x - means[k]) * exp(-log_scale);
    const V distance = magnitude(z);
    const V tail = exp(-distance);
    const V near = one / (one + tail), far = tail * near;  // sigmoid(|z|), sigmoid(-|z|)
    const V weight = exp(logits[k] - top);
    total += weight;
    below += weight * (z < V{} ? far : near);
    above += weight * (z < V{} ? near : far);
    // The density's logarithm without its bounded factor near^2, so that no tail underflows.
    const V log_peak = logits[k] - distance - log_scale;
    peak = larger(log_peak, peak);
    means[k] = log_peak;
    log_scales[k] = near * near;
  }
  V density{};
  for (int64_t k = 0; k < components; ++k) density += exp(means[k] - peak) * log_scales[k];

  const V a = tanh(params[0]);
  const V log_u = log(floor + span * below / total);
  const V log_v = log(floor + span * above / total);
  const V log_density = (peak - top) + (log(density) - log(total));
  return {(log_u - log_v) * exp(a) + params[1],
          log_density + splat<V>(-0.10536051565782628) - log_u - log_v + a};
}

}  // namespace vflow::VFLOW_TARGET
