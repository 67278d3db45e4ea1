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

// A block is kVectors vectors against kRows rows, eight scores for each lane. Each number of a row is fetched
// once for all vectors, which counts where that is an instruction of its own; AVX-512 multiplies by a number
// in memory.
#if VFLOW_VECTOR_BYTES == 64
constexpr int64_t kVectors = 1, kRows = 8;
#else
constexpr int64_t kVectors = 2, kRows = 4;
#endif
constexpr int64_t kQueries = 8;  // of a gradient's rows at a time, in blocks of kRows

template <class S>
constexpr int64_t kColumns = kVectors * kLanes<S>;

// `positions` rounded up to whole blocks; what is beyond is zero.
template <class S>
constexpr int64_t padded(int64_t positions) {
  constexpr int64_t step = kColumns<S> > kQueries ? kColumns<S> : kQueries;
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
  return (rows * (4 * width + 2 * wide_row<float>(width) + 2)) * 8 +
         (4 * kVectors + 1) * width * VFLOW_VECTOR_BYTES;
}

// Where a head keeps its things, from the scratch on.
template <class S>
struct Room {
  Vector<S>*columns[2], *sums[2];  // [kVectors, width] each
  Vector<S>* rows;                 // kLanes rows [width]
  Number<S>*q, *k, *v, *grad;      // [positions, width], packed
  Number<S>*wide_k, *grad_q;       // [positions, wide_row]
  Number<S>*log_total, *along;     // [positions]

  Room(void* scratch, int64_t positions, int64_t width) {
    auto* vectors = static_cast<Vector<S>*>(scratch);
    const int64_t block = kVectors * width, size = padded<S>(positions) * width;
    columns[0] = vectors, columns[1] = vectors + block;
    sums[0] = vectors + 2 * block, sums[1] = vectors + 3 * block;
    rows = vectors + 4 * block;
    q = reinterpret_cast<Number<S>*>(rows + width);
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

// kColumns rows from `rows` on -> kVectors times `width` columns.
template <class S>
VFLOW_INLINE void load_block(const Number<S>* rows, int64_t width, Vector<S>* columns) {
  for (int64_t v = 0; v < kVectors; ++v)
    load_columns<Number<S>>(rows + v * kLanes<S> * width, width, columns + v * width);
}

// Columns of one vector, times `factor` -> the first `count` rows, `stride` apart; the columns are spent.
template <class S>
VFLOW_INLINE void unpack(Vector<S>* columns, Vector<S> factor, int64_t count, int64_t stride, int64_t width,
                         const Room<S>& room, S* to) {
  auto* rows = reinterpret_cast<Number<S>*>(room.rows);
  for (int64_t j = 0; j < width; ++j) columns[j] *= factor;
  store_columns<Number<S>>(columns, width, rows);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < width; ++j) narrow(rows[i * width + j], to + i * stride + j);
}

template <class V>
using Block = V[kVectors][kRows];

// Not by = {}, which is a memset in memory.
template <class V>
VFLOW_INLINE void clear(Block<V>& block) {
  for (auto& rows : block)
    for (V& row : rows) row = V{};
}

// products[v][r] += the product of row r with each lane of vector v.
template <class V, class C>
VFLOW_INLINE void multiply(const V* columns, const C* rows, int64_t width, Block<V>& products) {
  for (int64_t j = 0; j < width; ++j) {
    V column[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) column[v] = columns[v * width + j];
    for (int64_t r = 0; r < kRows; ++r) {
      const C number = rows[r * width + j];
      for (int64_t v = 0; v < kVectors; ++v) products[v][r] += column[v] * number;
    }
  }
}

// sums[v][j] += the rows' numbers j, each times its weight.
template <class V, class C>
VFLOW_INLINE void accumulate(const Block<V>& weights, const C* rows, int64_t width, V* sums) {
  for (int64_t j = 0; j < width; ++j) {
    V to[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) to[v] = sums[v * width + j];
    for (int64_t r = 0; r < kRows; ++r) {
      const C number = rows[r * width + j];
      for (int64_t v = 0; v < kVectors; ++v) to[v] += weights[v][r] * number;
    }
    for (int64_t v = 0; v < kVectors; ++v) sums[v * width + j] = to[v];
  }
}

// Each of kQueries rows += its weights times kColumns rows of `from`; W is a vector, or half of one.
template <class W, class C, int64_t columns>
VFLOW_INLINE void accumulate_rows(const C (&weights)[kQueries][columns], const C* from, int64_t wide,
                                  C* rows) {
  for (int64_t j = 0; j < wide; j += sizeof(W) / sizeof(C)) {
    W sums[kQueries];
    for (int64_t r = 0; r < kQueries; ++r) sums[r] = load_as<W>(rows + r * wide + j);
    for (int64_t column = 0; column < columns; ++column) {
      const W row = load_as<W>(from + column * wide + j);
      for (int64_t r = 0; r < kQueries; ++r) sums[r] += weights[r][column] * row;
    }
    for (int64_t r = 0; r < kQueries; ++r) store_as(sums[r], rows + r * wide + j);
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

// With P the softmax and g the gradient of the output: dV = P^T g, dP = g V^T, dS = P (dP - rowsum(g O)),
// dQ = dS K scale, dK = dS^T Q scale. `along` is rowsum(g O), less the gradient of log_total. W takes
// the rows of dQ.
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
