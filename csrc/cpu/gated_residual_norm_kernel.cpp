// The gated_residual_norm kernels for one instruction set (VFLOW_TARGET): a row at a time, which stays in
// the first level of cache from its sum over the squares of its differences to its output.
#include "gated_residual_norm_kernel.h"

#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

constexpr double kEps = 1e-5;

// A run's scratch: vectors of a row, a few of each kind, and stages of the outputs.
enum Kind { kResidual, kGate, kSlope, kScaled, kWeight, kBias, kGradWeight, kGradBias, kKinds };

static int64_t scratch_bytes(int64_t features) {
  const int64_t row = (features + VFLOW_VECTOR_BYTES) * 8;  // and what the vectors have to spare
  return (kKinds + 3 * kStageRows) * ((row + 63) / 64 * 64);
}

template <class S>
struct Room {
  Vector<S>* vectors[kKinds];
  S *output_stage, *ab_stage;

  VFLOW_INLINE Room(void* scratch, const RowVectors<S>& row) {
    auto* next = static_cast<Vector<S>*>(scratch);
    for (int kind = 0; kind < kKinds; ++kind, next += row.count) vectors[kind] = next;
    output_stage = reinterpret_cast<S*>(next);
    ab_stage = reinterpret_cast<S*>(next + (kStageRows * row.width + kLanes<S> - 1) / kLanes<S>);
  }
};

template <class S>
VFLOW_INLINE void load_row(const void* numbers, const RowVectors<S>& row, Vector<S>* to) {
  for (int64_t j = 0; j < row.count; ++j)
    to[j] = load_some(static_cast<const Number<S>*>(numbers) + row.first(j), row.filled());
}

// What normalises a row, in every lane.
template <class V>
struct Moments {
  V mean, inv_deviation;
};

// The mean is taken twice: the second time of the differences from the first, whose own rounding would
// otherwise be all there is of a row of nearly equal numbers.
template <class S>
VFLOW_INLINE Moments<Vector<S>> moments(const RowVectors<S>& row, const Vector<S>* numbers, Vector<S> sum) {
  using V = Vector<S>;
  const V features = splat<V>(static_cast<double>(row.width));
  const V mean = sum_across(sum) / features;
  V differences{}, squares{};
  for (int64_t j = 0; j < row.count; ++j) {
    const V difference = row.once(j, numbers[j] - mean);
    differences += difference;
    squares += difference * difference;
  }
  const V rest = sum_across(differences) / features;
  const V variance = larger(V{}, sum_across(squares) / features - rest * rest);
  const Number<S> deviation = __builtin_sqrt(variance[0] + static_cast<Number<S>>(kEps));
  return {mean + rest, splat<V>(1) / (V{} + deviation)};
}

template <class S>
void forward_run(const GatedResidualNormArrays& arrays, int64_t first, int64_t rows, void* scratch, void*) {
  using V = Vector<S>;
  const int64_t features = arrays.features;
  const RowVectors<S> row(features);
  const Room<S> room(scratch, row);
  V *residuals = room.vectors[kResidual], *weight = room.vectors[kWeight], *bias = room.vectors[kBias];
  load_row(arrays.weight, row, weight);
  load_row(arrays.bias, row, bias);
  const S* x = static_cast<const S*>(arrays.x) + first * features;
  const S* ab = static_cast<const S*>(arrays.ab) + first * 2 * features;
  const RowWriter<S> y(static_cast<S*>(arrays.output) + first * features, features, room.output_stage,
                       arrays.stream_output);
  for (int64_t i = 0; i < rows; ++i, x += features, ab += 2 * features) {
    V sum{};
    for (int64_t j = 0; j < row.count; ++j) {
      const int64_t start = row.first(j);
      const V a = load_some(ab + start, row.filled()), b = load_some(ab + features + start, row.filled());
      residuals[j] = load_some(x + start, row.filled()) + a * Sigmoids<V>(b).below;
      sum += row.once(j, residuals[j]);
    }
    const Moments<V> m = moments(row, residuals, sum);
    S* to = y.row(i);
    for (int64_t j = 0; j < row.count; ++j)
      store_some((residuals[j] - m.mean) * m.inv_deviation * weight[j] + bias[j], row.filled(),
                 to + row.first(j));
    y.written(i, i + 1 == rows);
  }
}

template <class S>
void backward_run(const GatedResidualNormArrays& arrays, int64_t first, int64_t rows, void* scratch,
                  void* sums) {
  using V = Vector<S>;
  const int64_t features = arrays.features;
  const RowVectors<S> row(features);
  const Room<S> room(scratch, row);
  V *normed = room.vectors[kResidual], *gates = room.vectors[kGate], *slopes = room.vectors[kSlope],
    *scaled = room.vectors[kScaled], *weight = room.vectors[kWeight],
    *grad_weight = room.vectors[kGradWeight], *grad_bias = room.vectors[kGradBias];
  load_row(arrays.weight, row, weight);
  for (int64_t j = 0; j < row.count; ++j) grad_weight[j] = grad_bias[j] = V{};
  const S* x = static_cast<const S*>(arrays.x) + first * features;
  const S* ab = static_cast<const S*>(arrays.ab) + first * 2 * features;
  const S* grad = static_cast<const S*>(arrays.grad) + first * features;
  const RowWriter<S> grad_x(static_cast<S*>(arrays.output) + first * features, features, room.output_stage,
                            arrays.stream_output);
  const RowWriter<S> grad_ab(static_cast<S*>(arrays.grad_ab) + first * 2 * features, 2 * features,
                             room.ab_stage, arrays.stream_ab);
  const V share = splat<V>(1) / splat<V>(static_cast<double>(features));
  for (int64_t i = 0; i < rows; ++i, x += features, ab += 2 * features, grad += features) {
    V sum{};
    for (int64_t j = 0; j < row.count; ++j) {
      const int64_t start = row.first(j);
      const V a = load_some(ab + start, row.filled());
      const Sigmoids<V> gate(load_some(ab + features + start, row.filled()));
      gates[j] = gate.below;
      slopes[j] = a * gate.below * gate.above;
      normed[j] = load_some(x + start, row.filled()) + a * gate.below;
      sum += row.once(j, normed[j]);
    }
    const Moments<V> m = moments(row, normed, sum);
    V total{}, along{};
    for (int64_t j = 0; j < row.count; ++j) {
      const V g = load_some(grad + row.first(j), row.filled());
      normed[j] = (normed[j] - m.mean) * m.inv_deviation;
      scaled[j] = g * weight[j];
      grad_weight[j] += g * normed[j];
      grad_bias[j] += g;
      total += row.once(j, scaled[j]);
      along += row.once(j, scaled[j] * normed[j]);
    }
    total = sum_across(total) * share;
    along = sum_across(along) * share;
    S *to_x = grad_x.row(i), *to_ab = grad_ab.row(i);
    for (int64_t j = 0; j < row.count; ++j) {
      const int64_t start = row.first(j);
      const V gradient = (scaled[j] - total - normed[j] * along) * m.inv_deviation;
      store_some(gradient, row.filled(), to_x + start);
      store_some(gradient * gates[j], row.filled(), to_ab + start);
      store_some(gradient * slopes[j], row.filled(), to_ab + features + start);
    }
    grad_x.written(i, i + 1 == rows);
    grad_ab.written(i, i + 1 == rows);
  }
  auto* to = static_cast<Number<S>*>(sums);
  for (int64_t j = 0; j < row.count; ++j) {
    store_some<Number<S>>(grad_weight[j], row.filled(), to + row.first(j));
    store_some<Number<S>>(grad_bias[j], row.filled(), to + features + row.first(j));
  }
}

const GatedResidualNormKernels& gated_residual_norm_kernels() {
  static const GatedResidualNormKernels kernels = {
      scratch_bytes,
      {forward_run<float>, forward_run<double>, forward_run<BFloat16>},
      {backward_run<float>, backward_run<double>, backward_run<BFloat16>},
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
