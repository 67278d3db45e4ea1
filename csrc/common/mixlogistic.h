// Mathematics of the mixture-of-logistics transform and its gradient, for one element or a SIMD vector of
// elements. Notation as in vflow/ops/reference/mixlogistic.py.
//
// Weights stay unnormalised, w_k = exp(logit_k - top), and the CDF, the survival function and the density
// are sums of w_k sigmoid(z_k), w_k sigmoid(-z_k) and w_k pdf_k: one pass over the components. Where a sum
// that is to go through a logarithm comes near underflow, far from every component, it is replaced by the
// same sum in log space, relative to its largest term (LogSpace): slower, and seldom needed.
#pragma once

#include <stdint.h>

#include "math.h"

namespace vflow::VFLOW_TARGET {

constexpr double kSquashFloor = 0.05, kSquashSpan = 0.9, kLeastLogScale = -7;

// An element's parameters: a before its tanh, b, then K logits, K means, K log-scales. `Source` gives each of
// them, a `V`, by its index; `Count` is an integer, or a constant that converts to one.
template <class V, class Source = const V*, class Count = int64_t>
struct Params {
  using Number = V;
  using Index = decltype(Count{} + 0);
  Source data;
  Count components;

  VFLOW_INLINE V raw_a() const { return data[0]; }
  VFLOW_INLINE V b() const { return data[1]; }
  VFLOW_INLINE V logit(Index k) const { return data[2 + k]; }
  VFLOW_INLINE V mean(Index k) const { return data[2 + components + k]; }
  VFLOW_INLINE V raw_log_scale(Index k) const { return data[2 + 2 * components + k]; }
  VFLOW_INLINE V log_scale(Index k) const { return larger(splat<V>(kLeastLogScale), raw_log_scale(k)); }
  VFLOW_INLINE V top() const {
    V top = logit(0);
    VFLOW_UNROLL
    for (Index k = 1; k < components; ++k) top = larger(top, logit(k));
    return top;
  }
};

// One logistic at x.
template <class V>
struct Component {
  V weight, inv_scale, z;
  V below, above;  // sigmoid(z) and sigmoid(-z)

  VFLOW_INLINE V density() const { return weight * inv_scale * (below * above); }
};

template <class P, class V>
VFLOW_INLINE Component<V> component(const P& params, typename P::Index k, V x, V top) {
  const V inv_scale = exp_minus(params.log_scale(k)), z = (x - params.mean(k)) * inv_scale;
  const Sigmoids<V> sigmoids(z);
  return {exp_of_rounded(params.logit(k) - top), inv_scale, z, sigmoids.below, sigmoids.above};
}

// Sums over the components, each times exp(its shift).
template <class V>
struct Sums {
  V total{}, below{}, above{}, density{};
  V below_shift{}, above_shift{}, density_shift{};

  VFLOW_INLINE void add(const Component<V>& c) {
    total += c.weight;
    below += c.weight * c.below;
    above += c.weight * c.above;
    density += c.density();
  }

  // Lanes where a sum under a logarithm is near underflow (or NaN). With the squash the CDF is no such sum.
  template <bool squash>
  VFLOW_INLINE auto faint() const {
    V least = density;
    if (!squash) least = smaller(smaller(below, above), density);
    return !(least >= splat<V>(Format<V>::small));
  }
};

// The terms of the three sums in log space: log weight + log of the component's part, but for bounded
// factors `near` (of below and above) and near^2 (of the density).
template <class V>
struct LogTerms {
  V below, above, density, near;
};

template <class P, class V>
VFLOW_INLINE LogTerms<V> log_terms(const P& params, typename P::Index k, V x) {
  const V log_scale = params.log_scale(k), logit = params.logit(k);
  const V limit = splat<V>(Format<V>::largest / 8);  // an infinite z would give inf - inf
  V z = (x - params.mean(k)) * exp_minus(log_scale);
  z = clamp(-limit, z, limit);
  const V near = splat<V>(1) / (splat<V>(1) + exp_minus(magnitude(z)));
  return {logit + smaller(V{}, z), logit - larger(V{}, z), logit - magnitude(z) - log_scale, near};
}

// The largest terms, which become the shifts.
template <class V>
struct LogSpace {
  V below, above, density;

  LogSpace() = default;
  template <class P>
  VFLOW_INLINE LogSpace(const P& params, V x) {
    const V lowest = splat<V>(-Format<V>::largest);
    below = above = density = lowest;
    for (typename P::Index k = 0; k < params.components; ++k) {
      const LogTerms<V> terms = log_terms(params, k, x);
      below = larger(below, terms.below);
      above = larger(above, terms.above);
      density = larger(density, terms.density);
    }
  }

  VFLOW_INLINE V below_share(const LogTerms<V>& t) const { return exp_of_rounded(t.below - below) * t.near; }
  VFLOW_INLINE V above_share(const LogTerms<V>& t) const { return exp_of_rounded(t.above - above) * t.near; }
  VFLOW_INLINE V density_share(const LogTerms<V>& t) const {
    return exp_of_rounded(t.density - density) * t.near * t.near;
  }
};

// Replaces the sums of the faint lanes.
template <bool squash, class V, class Faint, class P>
VFLOW_INLINE void sum_in_log_space(Sums<V>& sums, Faint faint, const LogSpace<V>& log_space, const P& params,
                                   V x, V top) {
  V below{}, above{}, density{};
  for (typename P::Index k = 0; k < params.components; ++k) {
    const LogTerms<V> terms = log_terms(params, k, x);
    density += log_space.density_share(terms);
    if (squash) continue;
    below += log_space.below_share(terms);
    above += log_space.above_share(terms);
  }
  sums.density = faint ? density : sums.density;
  sums.density_shift = faint ? log_space.density - top : V{};
  if (squash) return;
  sums.below = faint ? below : sums.below;
  sums.above = faint ? above : sums.above;
  sums.below_shift = faint ? log_space.below - top : V{};
  sums.above_shift = faint ? log_space.above - top : V{};
}

template <class V, class P>
VFLOW_INLINE Sums<V> sum_plainly(const P& params, V x, V top) {
  Sums<V> sums;
  VFLOW_UNROLL
  for (typename P::Index k = 0; k < params.components; ++k) sums.add(component(params, k, x, top));
  return sums;
}

template <bool squash, class V, class P>
VFLOW_INLINE Sums<V> sum_components(const P& params, V x, V top) {
  Sums<V> sums = sum_plainly<V>(params, x, top);
  const auto faint = sums.template faint<squash>();
  if (__builtin_expect(any(faint), 0))
    sum_in_log_space<squash>(sums, faint, LogSpace<V>(params, x), params, x, top);
  return sums;
}

// What enters the logit: u = 0.05 + 0.9 F and v = 0.05 + 0.9 (1 - F), or F and 1 - F without the squash
// (times exp of the sums' shifts).
template <bool squash, class V>
struct Odds {
  V u, v;

  VFLOW_INLINE explicit Odds(const Sums<V>& sums) {
    const V inv_total = splat<V>(1) / sums.total;
    u = sums.below * inv_total;
    v = sums.above * inv_total;
    if (squash) {
      u = splat<V>(kSquashFloor) + splat<V>(kSquashSpan) * u;
      v = splat<V>(kSquashFloor) + splat<V>(kSquashSpan) * v;
    }
  }
  VFLOW_INLINE V logit(const Sums<V>& sums) const {
    const V shift = squash ? V{} : sums.below_shift - sums.above_shift;
    return log(u / v) + shift;
  }
};

template <class V>
struct Transformed {
  V y;
  V log_derivative;
};

template <bool squash, class V>
VFLOW_INLINE V log_derivative(const Sums<V>& sums, const Odds<squash, V>& odds, V a) {
  const V span = splat<V>(squash ? kSquashSpan : 1.0);
  V shift = sums.density_shift;
  if (!squash) shift = shift - sums.below_shift - sums.above_shift;
  return log(sums.density * span / (sums.total * odds.u * odds.v)) + shift + a;
}

template <bool squash, class V, class P>
VFLOW_INLINE Transformed<V> mixlogistic(V x, const P& params) {
  const Sums<V> sums = sum_components<squash>(params, x, params.top());
  const Odds<squash, V> odds(sums);
  const V a = tanh(params.raw_a());
  return {odds.logit(sums) * exp_bounded(a) + params.b(), log_derivative<squash>(sums, odds, a)};
}

// A component's terms of the three sums, in log space where the sums are.
template <class V>
struct Terms {
  V density, below, above;  // the last two without the squash
};

template <class V>
struct ComponentGradient {
  V logit;
  V slope;  // of x by way of this component; that of its mean is the opposite
  V log_scale;
};

// The gradient of gy y + gl log_derivative: what all of an element's components have in common.
template <bool squash, class V>
struct ElementGradient {
  V raw_a, gl, inv_total, of_density;
  V of_cdf{}, cdf{};         // with the squash
  V of_below{}, of_above{};  // without

  VFLOW_INLINE ElementGradient(V gy, V gl, const Sums<V>& sums, V raw_a_itself)
      : gl(gl), inv_total(splat<V>(1) / sums.total), of_density(gl / sums.density) {
    const Odds<squash, V> odds(sums);
    const V a = tanh(raw_a_itself), gy_exp_a = gy * exp_bounded(a);
    raw_a = (gy_exp_a * odds.logit(sums) + gl) * (splat<V>(1) - a * a);
    // With the squash: the gradient of F. d/dF of logit(u) is span / (u v); of -log u - log v it is
    // span (u - v) / (u v), as u + v = 1.
    if (squash) {
      of_cdf = (gy_exp_a + gl * (odds.u - odds.v)) * splat<V>(kSquashSpan) / (odds.u * odds.v);
      cdf = sums.below * inv_total;
    } else {
      of_below = (gy_exp_a - gl) / sums.below;
      of_above = (-gy_exp_a - gl) / sums.above;
    }
  }

  VFLOW_INLINE ComponentGradient<V> of(const Component<V>& c, const Terms<V>& terms) const {
    const V share = of_density * terms.density, weight = c.weight * inv_total;
    V grad_z = share * (c.above - c.below), of_logit;
    if (squash) {
      const V of_weight = of_cdf * weight;
      of_logit = of_weight * (c.below - cdf) + (share - weight * gl);
      grad_z += of_weight * (c.below * c.above);
    } else {
      const V below_share = of_below * terms.below, above_share = of_above * terms.above;
      of_logit = below_share + above_share + (share + weight * gl);
      grad_z += below_share * c.above - above_share * c.below;
    }
    return {of_logit, grad_z * c.inv_scale, -(grad_z * c.z + share)};
  }
};

// A component whose z is kept finite: what an infinite one multiplies in the gradient is nothing, and the
// product must not be NaN.
template <class V>
VFLOW_INLINE Component<V> with_finite_z(Component<V> c) {
  const V far_z = splat<V>(Format<V>::huge);
  c.z = clamp(-far_z, c.z, far_z);
  return c;
}

template <bool squash, class V>
VFLOW_INLINE Terms<V> plain_terms(const Component<V>& c) {
  if (squash) return {c.density(), V{}, V{}};
  return {c.density(), c.weight * c.below, c.weight * c.above};
}

template <bool squash, class V>
VFLOW_INLINE Terms<V> log_space_terms(const LogSpace<V>& log_space, const LogTerms<V>& t) {
  if (squash) return {log_space.density_share(t), V{}, V{}};
  return {log_space.density_share(t), log_space.below_share(t), log_space.above_share(t)};
}

// What the gradient keeps of every component between its two passes; K of each.
template <class V>
struct Kept {
  V *weight, *inv_scale, *z, *below, *above;
  V *density_term, *below_term, *above_term;  // the last two without the squash

  static constexpr int64_t vectors(int64_t components) { return 8 * components; }
  VFLOW_INLINE Kept(V* room, int64_t k)
      : weight(room),
        inv_scale(room + k),
        z(room + 2 * k),
        below(room + 3 * k),
        above(room + 4 * k),
        density_term(room + 5 * k),
        below_term(room + 6 * k),
        above_term(room + 7 * k) {}

  VFLOW_INLINE void keep(int64_t k, const Component<V>& c) const {
    weight[k] = c.weight;
    inv_scale[k] = c.inv_scale;
    z[k] = c.z;
    below[k] = c.below;
    above[k] = c.above;
  }
  VFLOW_INLINE Component<V> component(int64_t k) const {
    return {weight[k], inv_scale[k], z[k], below[k], above[k]};
  }
  template <bool squash>
  VFLOW_INLINE void keep_terms(int64_t k, const Terms<V>& terms) const {
    density_term[k] = terms.density;
    if (squash) return;
    below_term[k] = terms.below;
    above_term[k] = terms.above;
  }
  template <bool squash>
  VFLOW_INLINE Terms<V> terms(int64_t k) const {
    if (squash) return {density_term[k], V{}, V{}};
    return {density_term[k], below_term[k], above_term[k]};
  }
};

// Gradient of gy y + gl log_derivative. Overwrites the parameters at `gradient` (which may be where
// `params` are) and returns the gradient of x.
template <bool squash, class V>
VFLOW_INLINE V mixlogistic_backward(V gy, V gl, V x, const Params<V>& params, V* gradient,
                                    const Kept<V>& kept) {
  const int64_t components = params.components;
  const V top = params.top();
  Sums<V> sums;
  for (int64_t k = 0; k < components; ++k) {
    const Component<V> c = component(params, k, x, top);
    sums.add(c);
    kept.keep(k, with_finite_z(c));
    kept.template keep_terms<squash>(k, plain_terms<squash>(c));
  }
  const auto faint = sums.template faint<squash>();
  if (__builtin_expect(any(faint), 0)) {
    const LogSpace<V> log_space(params, x);
    sum_in_log_space<squash>(sums, faint, log_space, params, x, top);
    for (int64_t k = 0; k < components; ++k) {
      const Terms<V> near = kept.template terms<squash>(k);
      const Terms<V> far = log_space_terms<squash>(log_space, log_terms(params, k, x));
      kept.template keep_terms<squash>(k, {faint ? far.density : near.density, faint ? far.below : near.below,
                                           faint ? far.above : near.above});
    }
  }

  const ElementGradient<squash, V> element(gy, gl, sums, params.raw_a());
  gradient[0] = element.raw_a;
  gradient[1] = gy;
  V *grad_logits = gradient + 2, *grad_means = grad_logits + components,
    *grad_log_scales = grad_means + components;
  V grad_x{};
  for (int64_t k = 0; k < components; ++k) {
    const ComponentGradient<V> of = element.of(kept.component(k), kept.template terms<squash>(k));
    grad_logits[k] = of.logit;
    grad_x += of.slope;
    grad_means[k] = -of.slope;
    grad_log_scales[k] = params.raw_log_scale(k) < splat<V>(kLeastLogScale) ? V{} : of.log_scale;
  }
  return grad_x;
}

}  // namespace vflow::VFLOW_TARGET
