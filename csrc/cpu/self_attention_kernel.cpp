// The self_attention kernels for one instruction set (VFLOW_TARGET).
//
// Flow++'s heads are narrow, 8 to 24 numbers, and an image has hundreds of positions: the exponentials cost
// as much as the products. A SIMD vector is therefore as many queries (or, for the gradients of keys and
// values, as many keys), a few keys (or queries) are taken at a time, and scores never leave the registers.
// The softmax is taken on the go: the sums are scaled down whenever a larger score turns up.
#include "self_attention_kernel.h"

#include "self_attention_blocks.h"

namespace vflow::VFLOW_TARGET {

// The place of a head's numbers of the first position, and the distance to the next position's.
template <class S>
struct Head {
  int64_t packed_stride, stride, first, real;
  const S *q, *k, *v;

  Head(const SelfAttentionArrays& arrays, int64_t image, int64_t head) {
    stride = arrays.heads * arrays.width;
    packed_stride = 3 * stride;
    first = image * arrays.positions * stride + head * arrays.width;
    real = (image * arrays.heads + head) * arrays.positions;
    q = static_cast<const S*>(arrays.qkv) + packed_first(arrays, image, head);
    k = q + stride;
    v = k + stride;
  }
  int64_t packed_first(const SelfAttentionArrays& arrays, int64_t image, int64_t head) const {
    return image * arrays.positions * packed_stride + head * arrays.width;
  }
};

template <class S>
VFLOW_INLINE Number<S> scale_of(int64_t width) {
  return static_cast<Number<S>>(1 / __builtin_sqrt(static_cast<double>(width)));
}

template <class S>
VFLOW_INLINE void pack_inputs(const Head<S>& head, int64_t positions, int64_t width, const Room<S>& room) {
  pack(head.q, positions, head.packed_stride, width, scale_of<S>(width), room.q);
  pack(head.k, positions, head.packed_stride, width, Number<S>{1}, room.k);
  pack(head.v, positions, head.packed_stride, width, Number<S>{1}, room.v);
}

// The widths of the presets' heads are constants for the compiler, which unrolls the loops over them; kAny is
// any other.
constexpr int64_t kAny = 0;

static SelfAttentionKernels::Run choose(int64_t width, SelfAttentionKernels::Run for_8,
                                        SelfAttentionKernels::Run for_16, SelfAttentionKernels::Run for_24,
                                        SelfAttentionKernels::Run for_any) {
  return width == 8 ? for_8 : width == 16 ? for_16 : width == 24 ? for_24 : for_any;
}

template <class S, int64_t kWidth>
VFLOW_NOINLINE void forward_of_head(const SelfAttentionArrays& arrays, int64_t image, int64_t head_index,
                                    void* scratch) {
  using V = Vector<S>;
  const int64_t positions = arrays.positions, width = kWidth == kAny ? arrays.width : kWidth;
  const Room<S> room(scratch, positions, width);
  const Head<S> head(arrays, image, head_index);
  pack_inputs(head, positions, width, room);
  S* output = static_cast<S*>(arrays.output) + head.first;
  auto* log_total = static_cast<Number<S>*>(arrays.log_total) + head.real;
  const V lowest = splat<V>(-Format<V>::largest);
  V* sums = room.sums[0];
  for (int64_t query = 0; query < positions; query += kColumns<S>) {
    load_block<S>(room.q + query * width, width, room.columns[0]);
    for (int64_t j = 0; j < kVectors * width; ++j) sums[j] = V{};
    V top[kVectors], total[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) top[v] = lowest, total[v] = V{};
    for (int64_t key = 0; key < positions; key += kRows) {
      Block<V> weights;
      clear(weights);
      multiply(room.columns[0], room.k + key * width, width, weights);
      for (int64_t r = positions - key; r < kRows; ++r)
        for (int64_t v = 0; v < kVectors; ++v) weights[v][r] = lowest;
      V higher[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) {
        higher[v] = top[v];
        for (int64_t r = 0; r < kRows; ++r) higher[v] = larger(higher[v], weights[v][r]);
      }
      auto rises = higher[0] > top[0];
      for (int64_t v = 1; v < kVectors; ++v) rises |= higher[v] > top[v];
      if (any(rises))
        for (int64_t v = 0; v < kVectors; ++v) {
          const V factor = exp_of_rounded(top[v] - higher[v]);
          for (int64_t j = 0; j < width; ++j) sums[v * width + j] *= factor;
          total[v] *= factor;
          top[v] = higher[v];
        }
      for (int64_t r = 0; r < kRows; ++r)
        for (int64_t v = 0; v < kVectors; ++v) {
          weights[v][r] = exp_of_rounded(weights[v][r] - top[v]);
          total[v] += weights[v][r];
        }
      accumulate(weights, room.v + key * width, width, sums);
    }
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t first = query + v * kLanes<S>, left = positions - first;
      const int64_t count = left < kLanes<S> ? left : kLanes<S>;
      unpack(sums + v * width, splat<V>(1) / total[v], count, head.stride, width, room,
             output + first * head.stride);
      const V logs = top[v] + log(total[v]);
      for (int64_t lane = 0; lane < count; ++lane) log_total[first + lane] = logs[lane];
    }
  }
}

template <class S>
void forward_run(const SelfAttentionArrays& arrays, int64_t image, int64_t head, void* scratch) {
  choose(arrays.width, forward_of_head<S, 8>, forward_of_head<S, 16>, forward_of_head<S, 24>,
         forward_of_head<S, kAny>)(arrays, image, head, scratch);
}

// With P the softmax and g the gradient of the output: dV = P^T g, dP = g V^T, dS = P (dP - rowsum(g O)),
// dQ = dS K scale, dK = dS^T Q scale. `along` is rowsum(g O), less the gradient of log_total. W takes
// the rows of dQ.
template <class W, class S, int64_t kWidth>
VFLOW_NOINLINE void backward_of_head(const SelfAttentionArrays& arrays, int64_t image, int64_t head_index,
                                     void* scratch) {
  using V = Vector<S>;
  using C = Number<S>;
  const int64_t positions = arrays.positions, width = kWidth == kAny ? arrays.width : kWidth;
  const int64_t wide = wide_row<S>(width);
  const Room<S> room(scratch, positions, width);
  const Head<S> head(arrays, image, head_index);
  pack_inputs(head, positions, width, room);
  pack(static_cast<const S*>(arrays.grad) + head.first, positions, head.stride, width, C{1}, room.grad);
  pad<S>(room.k, positions, width, room.wide_k);
  memset(room.grad_q, 0, static_cast<size_t>(padded<S>(positions) * wide) * sizeof(C));
  const S* output = static_cast<const S*>(arrays.output) + head.first;
  for (int64_t i = 0; i < padded<S>(positions); ++i) {
    const bool inside = i < positions;
    C sum = inside ? -static_cast<const C*>(arrays.grad_log_total)[head.real + i] : C{};
    for (int64_t j = 0; inside && j < width; ++j)
      sum += widen(output[i * head.stride + j]) * room.grad[i * width + j];
    room.along[i] = sum;
    room.log_total[i] = inside ? static_cast<const C*>(arrays.log_total)[head.real + i] : C{};
  }
  S* grad_q = static_cast<S*>(arrays.grad_qkv) + head.packed_first(arrays, image, head_index);
  S *grad_k = grad_q + head.stride, *grad_v = grad_k + head.stride;
  V *k = room.columns[0], *v = room.columns[1], *k_sums = room.sums[0], *v_sums = room.sums[1];
  for (int64_t key = 0; key < positions; key += kColumns<S>) {
    load_block<S>(room.k + key * width, width, k);
    load_block<S>(room.v + key * width, width, v);
    for (int64_t j = 0; j < kVectors * width; ++j) k_sums[j] = v_sums[j] = V{};
    for (int64_t block = 0; block < positions; block += kQueries) {
      alignas(V) C of_scores[kQueries][kColumns<S>];
      for (int64_t query = block; query < block + kQueries; query += kRows) {
        Block<V> weights, gradients;
        clear(weights);
        multiply(k, room.q + query * width, width, weights);
        for (int64_t i = 0; i < kVectors; ++i)
          for (int64_t r = 0; r < kRows; ++r)
            weights[i][r] = exp_of_rounded(weights[i][r] - room.log_total[query + r]);
        accumulate(weights, room.grad + query * width, width, v_sums);
        clear(gradients);
        multiply(v, room.grad + query * width, width, gradients);
        for (int64_t i = 0; i < kVectors; ++i)
          for (int64_t r = 0; r < kRows; ++r) {
            gradients[i][r] = weights[i][r] * (gradients[i][r] - room.along[query + r]);
            store_as(gradients[i][r], &of_scores[query - block + r][i * kLanes<S>]);
          }
        accumulate(gradients, room.q + query * width, width, k_sums);
      }
      // Lanes beyond the last key hold anything, perhaps an infinity, which zeros of k would make a NaN.
      for (int64_t lane = positions - key; lane < kColumns<S>; ++lane)
        for (auto& row : of_scores) row[lane] = 0;
      accumulate_rows<W>(of_scores, room.wide_k + key * wide, wide, room.grad_q + block * wide);
    }
    for (int64_t i = 0; i < kVectors; ++i) {
      const int64_t first = key + i * kLanes<S>, left = positions - first;
      const int64_t count = left < kLanes<S> ? left : kLanes<S>, to = first * head.packed_stride;
      unpack(k_sums + i * width, splat<V>(1), count, head.packed_stride, width, room, grad_k + to);
      unpack(v_sums + i * width, splat<V>(1), count, head.packed_stride, width, room, grad_v + to);
    }
  }
  const C scale = scale_of<S>(width);
  for (int64_t i = 0; i < positions; ++i)
    for (int64_t j = 0; j < width; ++j)
      narrow(room.grad_q[i * wide + j] * scale, grad_q + i * head.packed_stride + j);
}

template <class S, int64_t kWidth>
void backward_for_width(const SelfAttentionArrays& arrays, int64_t image, int64_t head, void* scratch) {
  typedef Number<S> Half __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));
  if ((kWidth == kAny ? arrays.width : kWidth) <= kHalf<S>)
    backward_of_head<Half, S, kWidth>(arrays, image, head, scratch);
  else
    backward_of_head<Vector<S>, S, kWidth>(arrays, image, head, scratch);
}

// Loops of the gradient want more registers, once unrolled, than there are without AVX-512.
constexpr int64_t if_unrolled(int64_t width) { return VFLOW_VECTOR_BYTES == 64 ? width : kAny; }

template <class S>
void backward_run(const SelfAttentionArrays& arrays, int64_t image, int64_t head, void* scratch) {
  choose(arrays.width, backward_for_width<S, if_unrolled(8)>, backward_for_width<S, if_unrolled(16)>,
         backward_for_width<S, if_unrolled(24)>, backward_for_width<S, kAny>)(arrays, image, head, scratch);
}

const SelfAttentionKernels& self_attention_kernels() {
  static const SelfAttentionKernels kernels = {
      scratch_bytes,
      {forward_run<float>, forward_run<double>, forward_run<BFloat16>},
      {backward_run<float>, backward_run<double>, backward_run<BFloat16>},
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
