// concat_elu, the gated residual with its LayerNorm, and attention, exact, for one instruction set
// (VFLOW_TARGET). A sum over a row has kParts parts, number j in part j mod kParts, which are added in
// halves: vectors of any width up to that do so. Compiled without contraction.
#include "exact_network_kernel.h"

#include "fused.h"
#include "parts.h"

namespace vflow::VFLOW_TARGET {

using V = FloatVector;
constexpr int64_t kParts = 16;
constexpr int64_t kQueries = 4;  // at a time: none waits for another's sums
constexpr float kEps = 1e-5f;

// The sum of term(j) for j below `count`.
template <class Term>
static VFLOW_INLINE float sum_in_parts(int64_t count, const Term& term) {
  float parts[kParts] = {};
  int64_t j = 0;
  for (; j + kParts <= count; j += kParts)
    for (int64_t i = 0; i < kParts; ++i) parts[i] = parts[i] + term(j + i);
  for (int64_t i = 0; j + i < count; ++i) parts[i] = parts[i] + term(j + i);
  for (int64_t width = kParts / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) parts[i] = parts[i] + parts[i + width];
  return parts[0];
}

static void concat_elu(const float* x, float* y, int64_t rows, int64_t channels) {
  for (int64_t row = 0; row < rows; ++row, x += channels, y += 2 * channels)
    for (int64_t j = 0; j < channels; j += kLanes<float>) {
      const int64_t filled = channels - j;
      const V number = load_some(x + j, filled);
      const V negative = expm1_bounded(-magnitude(number));  // of the one that is below zero
      store_some<float>(number > V{} ? number : negative, filled, y + j);
      store_some<float>(number < V{} ? -number : negative, filled, y + channels + j);
    }
}

static void gated_residual(const float* x, const float* ab, const float* weight, const float* bias, float* y,
                           int64_t rows, int64_t features) {
  for (int64_t row = 0; row < rows; ++row, x += features, ab += 2 * features, y += features) {
    for (int64_t j = 0; j < features; j += kLanes<float>) {
      const int64_t filled = features - j;
      const V gate = Sigmoids<V>(load_some(ab + features + j, filled)).below;
      const V product = load_some(ab + j, filled) * gate;
      store_some<float>(load_some(x + j, filled) + product, filled, y + j);
    }
    if (!weight) continue;
    const float mean = sum_in_parts(features, [=](int64_t j) { return y[j]; }) / static_cast<float>(features);
    const float variance = sum_in_parts(features,
                                        [=](int64_t j) {
                                          const float difference = y[j] - mean;
                                          return difference * difference;
                                        }) /
                           static_cast<float>(features);
    const float scale = 1.0f / __builtin_sqrtf(variance + kEps);
    for (int64_t j = 0; j < features; ++j) {
      const float normal = (y[j] - mean) * scale;
      y[j] = normal * weight[j] + bias[j];
    }
  }
}

static int64_t padded(int64_t count) { return (count + kParts - 1) / kParts * kParts; }

static int64_t attention_room(int64_t positions, int64_t width) {
  return (padded(width) * 2 + kQueries) * padded(positions);
}

// Keys lie as [width, positions] and values as [positions, width], each padded with zeros to whole vectors.
static void attention(const float* qkv, float* y, int64_t positions, int64_t heads, int64_t width,
                      int64_t head, float* room) {
  const int64_t all = heads * width, wide = padded(width), reach = padded(positions);
  float *keys = room, *values = keys + wide * reach, *scores = values + reach * wide;
  for (int64_t i = 0; i < reach; ++i)
    for (int64_t d = 0; d < wide; ++d) {
      const bool real = i < positions && d < width;
      const float* from = qkv + i * 3 * all + head * width + d;
      keys[d * reach + i] = real ? from[all] : 0.0f;
      values[i * wide + d] = real ? from[2 * all] : 0.0f;
    }
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
  for (int64_t first = 0; first < positions; first += kQueries) {
    const int64_t queries = positions - first < kQueries ? positions - first : kQueries;
    float totals[kQueries];
    for (int64_t q = 0; q < queries; ++q) {
      const float* query = qkv + (first + q) * 3 * all + head * width;
      float* score = scores + q * reach;
      for (int64_t j = 0; j < reach; j += kLanes<float>) {
        V sum{};
        for (int64_t d = 0; d < width; ++d)
          sum = fused(broadcast(query[d] * scale), load(keys + d * reach + j), sum);
        store(sum, score + j);
      }
      float top = score[0];
      for (int64_t j = 1; j < positions; ++j) top = score[j] > top ? score[j] : top;
      const V most = broadcast(top);
      for (int64_t j = 0; j < reach; j += kLanes<float>)
        store(exp_bounded(load(score + j) - most), score + j);
      for (int64_t j = positions; j < reach; ++j) score[j] = 0.0f;
      totals[q] = sum_in_parts(positions, [=](int64_t j) { return score[j]; });
    }
    for (int64_t d = 0; d < width; d += kLanes<float>) {
      V sums[kQueries] = {};
      for (int64_t j = 0; j < positions; ++j) {
        const V value = load(values + j * wide + d);
        for (int64_t q = 0; q < kQueries; ++q) {
          const int64_t row = q < queries ? q : 0;
          sums[q] = fused(broadcast(scores[row * reach + j]), value, sums[q]);
        }
      }
      for (int64_t q = 0; q < queries; ++q)
        store_some<float>(sums[q] / broadcast(totals[q]), width - d,
                          y + (first + q) * all + head * width + d);
    }
  }
}

const ExactNetworkKernels& exact_network_kernels() {
  static const ExactNetworkKernels kernels = {concat_elu, gated_residual, attention_room, attention};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
