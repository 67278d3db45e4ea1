// The self_attention kernels for one instruction set (VFLOW_TARGET).
//
// Flow++'s heads are narrow, 8 to 24 numbers, and an image has hundreds of positions: the exponentials cost
// as much as the products. A SIMD vector is therefore as many queries (or, for the gradients of keys and
// values, as many keys), a few keys (or queries) are taken at a time, and scores never leave the registers.
// The softmax is taken on the go: the sums are scaled down whenever a larger score turns up.
#include "self_attention_kernel.h"

#include "columns.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

constexpr int64_t kRows = 8;  // keys, or queries, at a time

// `positions` rounded up to whole vectors and whole blocks of rows; what is beyond is zero.
template <class S>
constexpr int64_t padded(int64_t positions) {
  constexpr int64_t step = kLanes<S> > kRows ? kLanes<S> : kRows;
  return (positions + step - 1) / step * step;
}

// A head of at most this many numbers fills half a vector; vectors of that size then take its rows.
template <class S>
constexpr int64_t kHalf = VFLOW_VECTOR_BYTES > 16 ? kLanes<S> / 2 : 0;

// `width` rounded up to whole vectors, or to a half of one.
template <class S>
constexpr int64_t wide_row(int64_t width) {
  if (width <= kHalf<S>) return kHalf<S>;
  return (width + kLanes<S> - 1) / kLanes<S> * kLanes<S>;
}

static int64_t scratch_bytes(int64_t positions, int64_t width) {
  const int64_t rows = padded<float>(positions);
  return (rows * (4 * width + 2 * wide_row<float>(width) + 2)) * 8 + 5 * width * VFLOW_VECTOR_BYTES;
}

// Where a head keeps its things, from the scratch on.
template <class S>
struct Room {
  Vector<S>*columns[2], *sums[2], *rows;  // [width] each; kLanes rows [width]
  Number<S>*q, *k, *v, *grad;             // [positions, width], packed
  Number<S>*wide_k, *grad_q;              // [positions, wide_row]
  Number<S>*log_total, *along;            // [positions]

  Room(void* scratch, int64_t positions, int64_t width) {
    auto* vectors = static_cast<Vector<S>*>(scratch);
    columns[0] = vectors, columns[1] = vectors + width;
    sums[0] = vectors + 2 * width, sums[1] = vectors + 3 * width;
    rows = vectors + 4 * width;
    const int64_t size = padded<S>(positions) * width;
    q = reinterpret_cast<Number<S>*>(vectors + 5 * width);
    k = q + size, v = k + size, grad = v + size;
    const int64_t wide = padded<S>(positions) * wide_row<S>(width);
    wide_k = grad + size, grad_q = wide_k + wide;
    log_total = grad_q + wide, along = log_total + padded<S>(positions);
  }
};

// Rows `stride` apart -> rows side by side, times `factor`.
template <class S>
VFLOW_INLINE void pack(const S* from, int64_t positions, int64_t stride, int64_t width, Number<S> factor,
                       Number<S>* to) {
  for (int64_t i = 0; i < positions; ++i)
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = widen(from[i * stride + j]) * factor;
  for (int64_t i = positions * width; i < padded<S>(positions) * width; ++i) to[i] = 0;
}

// Packed rows -> rows of whole vectors, zero beyond.
template <class S>
VFLOW_INLINE void pad(const Number<S>* from, int64_t positions, int64_t width, Number<S>* to) {
  const int64_t wide = wide_row<S>(width);
  memset(to, 0, static_cast<size_t>(padded<S>(positions) * wide) * sizeof(Number<S>));
  for (int64_t i = 0; i < positions; ++i)
    memcpy(to + i * wide, from + i * width, static_cast<size_t>(width) * sizeof(Number<S>));
}

// Columns -> the first `count` rows, `stride` apart, times `factor`.
template <class S>
VFLOW_INLINE void unpack(const Vector<S>* columns, Vector<S> factor, int64_t count, int64_t stride,
                         int64_t width, const Room<S>& room, S* to) {
  auto* rows = reinterpret_cast<Number<S>*>(room.rows);
  for (int64_t j = 0; j < width; ++j) room.columns[0][j] = columns[j] * factor;
  store_columns<Number<S>>(room.columns[0], width, rows);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < width; ++j) narrow(rows[i * width + j], to + i * stride + j);
}

// products[r] = the product of row r with each of the columns' lanes.
template <class V, class C>
VFLOW_INLINE void multiply(const V* columns, const C* rows, int64_t width, V (&products)[kRows]) {
  for (int64_t r = 0; r < kRows; ++r) products[r] = V{};
  for (int64_t j = 0; j < width; ++j) {
    const V column = columns[j];
    for (int64_t r = 0; r < kRows; ++r) products[r] += column * rows[r * width + j];
  }
}

// sums[j] += the rows' numbers j, each times its weight.
template <class V, class C>
VFLOW_INLINE void accumulate(const V (&weights)[kRows], const C* rows, int64_t width, V* sums) {
  for (int64_t j = 0; j < width; ++j) {
    V even = sums[j], odd{};
    for (int64_t r = 0; r < kRows; r += 2) {
      even += weights[r] * rows[r * width + j];
      odd += weights[r + 1] * rows[(r + 1) * width + j];
    }
    sums[j] = even + odd;
  }
}

// Row r of `rows` += the rows of `lane_rows`, one for each lane, times the lanes of weights[r]; W is a
// vector, or half of one.
template <class W, class C, class V>
VFLOW_INLINE void accumulate_rows(const V (&weights)[kRows], const C* lane_rows, int64_t wide, C* rows) {
  constexpr int64_t lanes = sizeof(V) / sizeof(C), step = sizeof(W) / sizeof(C);
  C numbers[kRows][lanes];
  memcpy(numbers, weights, sizeof(numbers));
  for (int64_t j = 0; j < wide; j += step) {
    W sums[kRows];
    for (int64_t r = 0; r < kRows; ++r) memcpy(&sums[r], rows + r * wide + j, sizeof(W));
    for (int64_t lane = 0; lane < lanes; ++lane) {
      W row;
      memcpy(&row, lane_rows + lane * wide + j, sizeof(W));
      for (int64_t r = 0; r < kRows; ++r) sums[r] += numbers[r][lane] * row;
    }
    for (int64_t r = 0; r < kRows; ++r) memcpy(rows + r * wide + j, &sums[r], sizeof(W));
  }
}

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

template <class S>
void forward_run(const SelfAttentionArrays& arrays, int64_t image, int64_t head_index, void* scratch) {
  using V = Vector<S>;
  const int64_t positions = arrays.positions, width = arrays.width;
  const Room<S> room(scratch, positions, width);
  const Head<S> head(arrays, image, head_index);
  pack_inputs(head, positions, width, room);
  S* output = static_cast<S*>(arrays.output) + head.first;
  auto* log_total = static_cast<Number<S>*>(arrays.log_total) + head.real;
  const V lowest = splat<V>(-Format<V>::largest);
  V* sums = room.sums[0];
  for (int64_t query = 0; query < positions; query += kLanes<S>) {
    load_columns<Number<S>>(room.q + query * width, width, room.columns[0]);
    for (int64_t j = 0; j < width; ++j) sums[j] = V{};
    V top = lowest, total{};
    for (int64_t key = 0; key < positions; key += kRows) {
      V weights[kRows];
      multiply(room.columns[0], room.k + key * width, width, weights);
      for (int64_t r = positions - key; r < kRows; ++r) weights[r] = lowest;
      V higher = top;
      for (int64_t r = 0; r < kRows; ++r) higher = larger(higher, weights[r]);
      if (any(higher > top)) {
        const V factor = exp_bounded(top - higher);
        for (int64_t j = 0; j < width; ++j) sums[j] *= factor;
        total *= factor;
        top = higher;
      }
      for (int64_t r = 0; r < kRows; ++r) {
        weights[r] = exp_bounded(weights[r] - top);
        total += weights[r];
      }
      accumulate(weights, room.v + key * width, width, sums);
    }
    const int64_t count = positions - query < kLanes<S> ? positions - query : kLanes<S>;
    unpack<S>(sums, splat<V>(1) / total, count, head.stride, width, room, output + query * head.stride);
    const V logs = top + log(total);
    for (int64_t lane = 0; lane < count; ++lane) log_total[query + lane] = logs[lane];
  }
}

// With P the softmax and g the gradient of the output: dV = P^T g, dP = g V^T, dS = P (dP - rowsum(g O)),
// dQ = dS K scale, dK = dS^T Q scale. `along` is rowsum(g O), less the gradient of log_total. W takes the
// rows of dQ.
template <class W, class S>
VFLOW_INLINE void backward_of_head(const SelfAttentionArrays& arrays, int64_t image, int64_t head_index,
                                   void* scratch) {
  using V = Vector<S>;
  using C = Number<S>;
  const int64_t positions = arrays.positions, width = arrays.width, wide = wide_row<S>(width);
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
  const V one = splat<V>(1);
  for (int64_t key = 0; key < positions; key += kLanes<S>) {
    const int64_t count = positions - key < kLanes<S> ? positions - key : kLanes<S>;
    load_columns<C>(room.k + key * width, width, k);
    load_columns<C>(room.v + key * width, width, v);
    for (int64_t j = 0; j < width; ++j) k_sums[j] = v_sums[j] = V{};
    for (int64_t query = 0; query < positions; query += kRows) {
      V weights[kRows], gradients[kRows];
      multiply(k, room.q + query * width, width, weights);
      multiply(v, room.grad + query * width, width, gradients);
      for (int64_t r = 0; r < kRows; ++r) {
        weights[r] = exp_bounded(weights[r] - room.log_total[query + r]);
        gradients[r] = weights[r] * (gradients[r] - room.along[query + r]);
      }
      accumulate(weights, room.grad + query * width, width, v_sums);
      accumulate(gradients, room.q + query * width, width, k_sums);
      // Lanes beyond the last key hold anything, perhaps an infinity, which zeros of k would make a NaN.
      for (int64_t lane = count; lane < kLanes<S>; ++lane)
        for (int64_t r = 0; r < kRows; ++r) gradients[r][lane] = 0;
      accumulate_rows<W>(gradients, room.wide_k + key * wide, wide, room.grad_q + query * wide);
    }
    unpack<S>(k_sums, one, count, head.packed_stride, width, room, grad_k + key * head.packed_stride);
    unpack<S>(v_sums, one, count, head.packed_stride, width, room, grad_v + key * head.packed_stride);
  }
  const C scale = scale_of<S>(width);
  for (int64_t i = 0; i < positions; ++i)
    for (int64_t j = 0; j < width; ++j)
      narrow(room.grad_q[i * wide + j] * scale, grad_q + i * head.packed_stride + j);
}

template <class S>
void backward_run(const SelfAttentionArrays& arrays, int64_t image, int64_t head, void* scratch) {
  typedef Number<S> Half __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));
  if (arrays.width <= kHalf<S>)
    backward_of_head<Half, S>(arrays, image, head, scratch);
  else
    backward_of_head<Vector<S>, S>(arrays, image, head, scratch);
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
