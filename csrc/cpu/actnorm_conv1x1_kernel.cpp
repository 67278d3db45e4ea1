// The actnorm_conv1x1 kernels for one instruction set (VFLOW_TARGET).
//
// Few channels: a vector holds several positions (a group), and a product with the matrix is as many
// rotations of each position's channels, by a permutation, times vectors of the matrix's generalised
// diagonals. More channels: a group is one position of one or more vectors, and a product takes blocks of
// positions against blocks of the matrix's columns. Groups are a whole number of vectors, whose last lanes
// may be of no use: they hold the next position's numbers, or zero.
#include "actnorm_conv1x1_kernel.h"

#include <type_traits>

#include "../common/lu.h"
#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

constexpr double kLeastScale = 1e-10;

// Permutations of fewer lanes are not worth it.
template <class S>
inline constexpr int64_t kMostPacked = kLanes<S> >= 8 ? kLanes<S> / 2 : 0;

#if defined(__AVX512F__)
constexpr int kBlockVectors = 4;  // within 32 registers
#else
constexpr int kBlockVectors = 2;  // within 16 registers
#endif
constexpr int64_t kBlockRows = 8;  // positions of a block, at most

// How positions become groups of vectors.
template <class S>
struct Groups {
  int64_t numbers;  // of a group
  int64_t vectors;  // of a group

  VFLOW_INLINE explicit Groups(int64_t channels)
      : numbers(channels <= kMostPacked<S> ? kLanes<S> / channels * channels : channels),
        vectors((numbers + kLanes<S> - 1) / kLanes<S>) {}
  // Numbers, those of no use among them, that a group's vectors hold.
  VFLOW_INLINE int64_t width() const { return vectors * kLanes<S>; }
  VFLOW_INLINE int64_t count(int64_t all) const { return (all + numbers - 1) / numbers; }
};

// Calls function(offset in memory, offset in the groups' vectors) for every vector of `all` numbers.
template <class S, class Function>
VFLOW_INLINE void for_vectors(const Groups<S>& groups, int64_t all, const Function& function) {
  for (int64_t group = 0; group < groups.count(all); ++group)
    for (int64_t v = 0; v < groups.vectors; ++v)
      function(group * groups.numbers + v * kLanes<S>, (group * groups.vectors + v) * kLanes<S>);
}

template <class S>
VFLOW_INLINE Vector<S> load_at(const S* from, int64_t offset, int64_t all) {
  return load_some(from + offset, all - offset);
}
// What it writes after the group's end is written again with the next group.
template <class S>
VFLOW_INLINE void store_at(Vector<S> numbers, S* to, int64_t offset, int64_t all) {
  store_some(numbers, all - offset, to + offset);
}

template <class V, class C>
VFLOW_INLINE V broadcast(C number) {
  return number - V{};  // and not + V{}, which would be an addition, because of -0
}

template <class S>
VFLOW_INLINE Vector<S> scale_at(const S* scale, int64_t offset, int64_t all) {
  return larger(splat<Vector<S>>(kLeastScale), load_at(scale, offset, all));
}

// Few channels: the packed matrix has a vector for every generalised diagonal d, which takes channel
// (c + d) mod channels of a position to channel c. Lanes to spare take themselves, times zero.
template <class S, int channels>
struct Rotations {
  using V = Vector<S>;
  using Bits = typename Format<V>::Bits;
  Bits orders[channels];
  V diagonals[channels];

  VFLOW_INLINE explicit Rotations(const void* packed) {
    for (int d = 0; d < channels; ++d) {
      for (int lane = 0; lane < kLanes<S>; ++lane) {
        const int channel = lane % channels, position = lane - channel;
        orders[d][lane] = position + channels <= kLanes<S> ? position + (channel + d) % channels : lane;
      }
      diagonals[d] = load(static_cast<const Number<S>*>(packed) + d * kLanes<S>);
    }
  }
  VFLOW_INLINE V times(V numbers) const {
    V product = numbers * diagonals[0];
    for (int d = 1; d < channels; ++d) product += permute(numbers, orders[d]) * diagonals[d];
    return product;
  }
};

// More channels: the packed matrix has rows of a group's width.
template <class S, int vectors, int rows>
VFLOW_INLINE void product_block(const Number<S>* in, int64_t width, const Number<S>* matrix, int64_t channels,
                                Number<S>* out) {
  using V = Vector<S>;
  V sums[rows][vectors]{};
  for (int64_t j = 0; j < channels; ++j) {
    V weights[vectors];
    for (int v = 0; v < vectors; ++v) weights[v] = load(matrix + j * width + v * kLanes<S>);
    for (int r = 0; r < rows; ++r) {
      const V number = broadcast<V>(in[r * width + j]);
      for (int v = 0; v < vectors; ++v) sums[r][v] += number * weights[v];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) store(sums[r][v], out + r * width + v * kLanes<S>);
}

template <class S, int vectors>
VFLOW_INLINE void product_columns(const Number<S>* in, int64_t rows, int64_t width, const Number<S>* matrix,
                                  int64_t channels, Number<S>* out) {
  constexpr int block = vectors == 1 ? kBlockRows : kBlockRows / 2;
  for (int64_t r = 0; r < rows; r += block)
    product_block<S, vectors, block>(in + r * width, width, matrix, channels, out + r * width);
}

// Calls function(first vector, integral constant of the number of vectors) for blocks of a group's vectors.
template <int most, class Function>
VFLOW_INLINE void for_blocks(int64_t vectors, const Function& function) {
  int64_t v = 0;
  for (; v + most <= vectors; v += most) function(v, std::integral_constant<int, most>{});
  if (most > 3 && vectors - v == 3) function(v, std::integral_constant<int, 3>{});
  if (most > 2 && vectors - v == 2) function(v, std::integral_constant<int, 2>{});
  if (vectors - v == 1) function(v, std::integral_constant<int, 1>{});
}

// out [rows, width] = in [rows, width] @ matrix; rows are rounded up to kBlockRows.
template <class S>
VFLOW_INLINE void product(const Number<S>* in, int64_t rows, const Groups<S>& groups, const Number<S>* matrix,
                          int64_t channels, Number<S>* out) {
  const int64_t width = groups.width();
  for_blocks<kBlockVectors>(groups.vectors, [&](int64_t v, auto vectors) {
    product_columns<S, decltype(vectors)::value>(in, rows, width, matrix + v * kLanes<S>, channels,
                                                 out + v * kLanes<S>);
  });
}

// sums [channels, width] += a^T b for a, b [rows, width]. Channels are rounded up to 4.
template <class S, int vectors, int channels>
VFLOW_INLINE void outer_block(const Number<S>* a, const Number<S>* b, int64_t rows, int64_t width,
                              Number<S>* sums) {
  using V = Vector<S>;
  V block[channels][vectors];
  for (int c = 0; c < channels; ++c)
    for (int v = 0; v < vectors; ++v) block[c][v] = load(sums + c * width + v * kLanes<S>);
  for (int64_t r = 0; r < rows; ++r) {
    V numbers[vectors];
    for (int v = 0; v < vectors; ++v) numbers[v] = load(b + r * width + v * kLanes<S>);
    for (int c = 0; c < channels; ++c) {
      const V factor = broadcast<V>(a[r * width + c]);
      for (int v = 0; v < vectors; ++v) block[c][v] += factor * numbers[v];
    }
  }
  for (int c = 0; c < channels; ++c)
    for (int v = 0; v < vectors; ++v) store(block[c][v], sums + c * width + v * kLanes<S>);
}

template <class S>
VFLOW_INLINE void add_outer(const Number<S>* a, const Number<S>* b, int64_t rows, const Groups<S>& groups,
                            int64_t channels, Number<S>* sums) {
  const int64_t width = groups.width();
  for_blocks<2>(groups.vectors, [&](int64_t v, auto vectors) {
    constexpr int count = decltype(vectors)::value;
    int64_t c = 0;
    if (count == 1)
      for (; c + 8 <= channels; c += 8)
        outer_block<S, count, 8>(a + c, b + v * kLanes<S>, rows, width, sums + c * width + v * kLanes<S>);
    for (; c < channels; c += 4)
      outer_block<S, count, 4>(a + c, b + v * kLanes<S>, rows, width, sums + c * width + v * kLanes<S>);
  });
}

// The numbers of a run's positions in one image: where they lie, if they lie side by side, or copied.
template <class S>
VFLOW_INLINE const S* gather(const RowsView& view, int64_t start, int64_t count, int64_t all, S* room) {
  const S* row = static_cast<const S*>(view.data) + start / view.length * view.stride;
  int64_t column = start % view.length;
  if (column + count <= view.length) return row + column;
  const int64_t last = (all - 1) / view.length * view.stride + (all - 1) % view.length;
  const S* end = static_cast<const S*>(view.data) + last + 1;  // of the array
  for (S* to = room; count > 0; row += view.stride, column = 0) {
    const int64_t piece = view.length - column < count ? view.length - column : count;
    const S* from = row + column;
    if (piece <= kLanes<S> && from + kLanes<S> <= end)
      memcpy(to, from, kLanes<S> * sizeof(S));  // and some more, to be overwritten
    else
      memcpy(to, from, static_cast<size_t>(piece) * sizeof(S));
    to += piece;
    count -= piece;
  }
  return room;
}

// A run's scratch.
template <class S>
struct Room {
  S *input, *grad_y;
  Number<S>*normed, *in, *out;     // groups
  Number<S>*scale, *bias, *outer;  // groups twice, and [channels, width]

  VFLOW_INLINE Room(void* scratch, int64_t positions, int64_t channels) {
    const Groups<S> groups(channels);
    const int64_t numbers = positions * channels;
    // To spare: for whole vectors, for whole blocks of rows, and of channels.
    const int64_t spread = (groups.count(numbers) + kBlockRows) * groups.width() + 64;
    auto* next = static_cast<Number<S>*>(scratch);
    const auto take = [&](int64_t count) {
      auto* piece = next;
      next += (count + 15) / 16 * 16;
      return piece;
    };
    input = reinterpret_cast<S*>(take(numbers + 64));
    grad_y = reinterpret_cast<S*>(take(numbers + 64));
    normed = take(spread);
    in = take(spread);
    out = take(spread);
    scale = take(spread);
    bias = take(spread);
    outer = take((channels + 8) * groups.width());
    bytes = (next - static_cast<Number<S>*>(scratch)) * static_cast<int64_t>(sizeof(Number<S>));
  }
  int64_t bytes;
};

static int64_t scratch_bytes(int64_t positions, int64_t channels) {
  const int64_t wide = Room<double>(nullptr, positions, channels).bytes;
  const int64_t narrow = Room<float>(nullptr, positions, channels).bytes;
  return wide > narrow ? wide : narrow;
}

static int64_t matrix_bytes(int64_t channels) { return (channels + 64) * channels * 8; }

template <class S>
void pack(const double* matrix, int64_t channels, bool transposed, void* packed) {
  const Groups<S> groups(channels);
  auto* to = static_cast<Number<S>*>(packed);
  const bool rotated = channels <= kMostPacked<S>;
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < groups.width(); ++j) {
      const bool spare = j >= groups.numbers;
      const int64_t column = spare ? 0 : j % channels, row = rotated ? (column + i) % channels : i;
      const double number = transposed ? matrix[column * channels + row] : matrix[row * channels + column];
      to[i * groups.width() + j] = spare ? 0 : static_cast<Number<S>>(number);
    }
}

// after(offset, product of before(offset) with the matrix) for every vector of `all` numbers.
template <class S, int channels, class Before, class After>
VFLOW_INLINE void map_product(const ActnormConv1x1Arrays& arrays, const Groups<S>& groups, int64_t all,
                              const Room<S>& room, const Before& before, const After& after) {
  if constexpr (channels > 0) {
    const Rotations<S, channels> rotations(arrays.matrix);
    for_vectors<S>(groups, all,
                   [&](int64_t offset, int64_t) { after(offset, rotations.times(before(offset))); });
  } else {
    for_vectors<S>(groups, all, [&](int64_t offset, int64_t at) { store(before(offset), room.in + at); });
    product<S>(room.in, groups.count(all), groups, static_cast<const Number<S>*>(arrays.matrix),
               arrays.channels, room.out);
    for_vectors<S>(groups, all, [&](int64_t offset, int64_t at) {
      after(offset, load(static_cast<const Number<S>*>(room.out) + at));
    });
  }
}

// Calls function(first number, how many) for the run's part of each of its images.
template <class Function>
VFLOW_INLINE void for_images(const ActnormConv1x1Arrays& arrays, const ActnormConv1x1Run& run,
                             const Function& function) {
  for (int64_t image = run.first_image; image < run.first_image + run.images; ++image) {
    const int64_t start = (image * arrays.positions + run.first_position) * arrays.channels;
    const int64_t all = run.positions * arrays.channels, left = arrays.numbers - start;
    function(start, all < left ? all : left);
  }
}

template <class S, int channels, bool inverse>
void map_run(const ActnormConv1x1Arrays& arrays, const ActnormConv1x1Run& run, void* scratch) {
  using V = Vector<S>;
  const Groups<S> groups(channels > 0 ? channels : arrays.channels);
  const Room<S> room(scratch, run.positions, arrays.channels);
  const S* scale = static_cast<const S*>(arrays.scale) + run.first_position * arrays.channels;
  const S* bias = static_cast<const S*>(arrays.bias) + run.first_position * arrays.channels;
  for_images(arrays, run, [&](int64_t start, int64_t all) {
    const S* input = gather(arrays.input, start, all, arrays.numbers, room.input);
    S* output = static_cast<S*>(arrays.output) + start;
    if constexpr (inverse)
      map_product<S, channels>(
          arrays, groups, all, room, [&](int64_t offset) { return load_at(input, offset, all); },
          [&](int64_t offset, V product) {
            const V shifted = product - load_at(bias, offset, all);
            store_at(shifted / scale_at(scale, offset, all), output, offset, all);
          });
    else
      map_product<S, channels>(
          arrays, groups, all, room,
          [&](int64_t offset) {
            return load_at(input, offset, all) * scale_at(scale, offset, all) + load_at(bias, offset, all);
          },
          [&](int64_t offset, V product) { store_at(product, output, offset, all); });
  });
}

template <class S, int channels>
void backward_run(const ActnormConv1x1Arrays& arrays, const ActnormConv1x1Run& run, void* scratch,
                  const ActnormConv1x1Sums& sums) {
  using V = Vector<S>;
  using C = Number<S>;
  const int64_t width = channels > 0 ? channels : arrays.channels;
  const Groups<S> groups(width);
  const Room<S> room(scratch, run.positions, arrays.channels);
  const int64_t first = run.first_position * width, most = run.positions * width;
  const S* scale = static_cast<const S*>(arrays.scale) + first;
  const S* bias = static_cast<const S*>(arrays.bias) + first;
  for_vectors<S>(groups, most, [&](int64_t, int64_t at) {
    store(V{}, room.scale + at);
    store(V{}, room.bias + at);
  });
  for (int64_t i = 0; i < (width + 8) * groups.width(); ++i) room.outer[i] = 0;
  for_images(arrays, run, [&](int64_t start, int64_t all) {
    const S* x = gather(arrays.input, start, all, arrays.numbers, room.input);
    const S* grad_y = gather(arrays.grad_y, start, all, arrays.numbers, room.grad_y);
    S* grad_x = static_cast<S*>(arrays.output) + start;
    const auto finish = [&](int64_t offset, int64_t at, V numbers, V scales, V grad_normed) {
      store_at(grad_normed * scales, grad_x, offset, all);
      store(load(static_cast<const C*>(room.bias) + at) + grad_normed, room.bias + at);
      store(load(static_cast<const C*>(room.scale) + at) + grad_normed * numbers, room.scale + at);
    };
    if constexpr (channels > 0) {
      const Rotations<S, channels> rotations(arrays.matrix);
      V outer[channels];
      for (int d = 0; d < channels; ++d) outer[d] = load(static_cast<const C*>(room.outer) + d * kLanes<S>);
      for_vectors<S>(groups, all, [&](int64_t offset, int64_t at) {
        const V numbers = load_at(x, offset, all), scales = scale_at(scale, offset, all);
        const V gradient = load_at(grad_y, offset, all);
        const V normed = numbers * scales + load_at(bias, offset, all);
        outer[0] += normed * gradient;
        for (int d = 1; d < channels; ++d) outer[d] += permute(normed, rotations.orders[d]) * gradient;
        finish(offset, at, numbers, scales, rotations.times(gradient));
      });
      for (int d = 0; d < channels; ++d) store(outer[d], room.outer + d * kLanes<S>);
    } else {
      for_vectors<S>(groups, all, [&](int64_t offset, int64_t at) {
        const V numbers = load_at(x, offset, all), scales = scale_at(scale, offset, all);
        store(numbers * scales + load_at(bias, offset, all), room.normed + at);
        store(load_at(grad_y, offset, all), room.in + at);
      });
      const int64_t rows = groups.count(all);
      product<S>(room.in, rows, groups, static_cast<const C*>(arrays.matrix), width, room.out);
      add_outer<S>(room.normed, room.in, rows, groups, width, room.outer);
      for_vectors<S>(groups, all, [&](int64_t offset, int64_t at) {
        finish(offset, at, load_at(x, offset, all), scale_at(scale, offset, all),
               load(static_cast<const C*>(room.out) + at));
      });
    }
  });
  for_vectors<S>(groups, most, [&](int64_t offset, int64_t at) {
    const V scales = load(static_cast<const C*>(room.scale) + at);
    const V biases = load(static_cast<const C*>(room.bias) + at);
    store_at<C>(scales, static_cast<C*>(sums.scale) + first, offset, most);
    store_at<C>(biases, static_cast<C*>(sums.bias) + first, offset, most);
  });
  for (int64_t j = 0; j < width; ++j)
    for (int64_t k = 0; k < width; ++k) {
      double sum = 0;
      if constexpr (channels > 0) {  // of the rotation that takes j to k
        for (int64_t lane = k; lane < groups.numbers; lane += channels)
          sum += static_cast<double>(room.outer[(j - k + channels) % channels * kLanes<S> + lane]);
      } else {
        sum = static_cast<double>(room.outer[j * groups.width() + k]);
      }
      sums.weight[j * width + k] = sum;
    }
}

template <class S>
double log_scales(const void* scale, int64_t count) {
  using V = Vector<double>;
  // The logarithm of a product costs one instead of several, and floats cannot overflow a double so.
  constexpr int64_t joined = sizeof(Number<S>) < 8 ? 4 : 1, lanes = kLanes<double>;
  const S* scales = static_cast<const S*>(scale);
  V sum{};
  for (int64_t i = 0; i < count; i += joined * lanes) {
    double products[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) products[lane] = 1;
    for (int64_t j = i; j < i + joined * lanes; j += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane)
        if (j + lane < count)
          products[lane] *= larger(kLeastScale, static_cast<double>(widen(scales[j + lane])));
    sum += log(load(static_cast<const double*>(products)));
  }
  return sum_across(sum)[0];
}

template <class S>
void widen_all(const void* numbers, int64_t count, double* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<double>(widen(static_cast<const S*>(numbers)[i]));
}

template <class S>
void finish(const void* parts, int64_t parts_count, int64_t repeats, int64_t count, double grad_logdet,
            const void* scale, void* grad_scale, void* grad_bias) {
  using C = Number<S>;
  constexpr int64_t most = 256;
  const C* part = static_cast<const C*>(parts);
  for (int64_t start = 0; start < count; start += most) {
    const int64_t some = count - start < most ? count - start : most;
    double sums[2][most]{};
    for (int64_t i = 0; i < parts_count; ++i)
      for (int64_t which = 0; which < 2; ++which)
        for (int64_t repeat = 0; repeat < repeats; ++repeat) {
          const C* from = part + ((i * 2 + which) * repeats + repeat) * count + start;
          for (int64_t j = 0; j < some; ++j) sums[which][j] += static_cast<double>(from[j]);
        }
    for (int64_t j = 0; j < some; ++j) {
      const C s = widen(static_cast<const S*>(scale)[start + j]);
      const double gradient = s < static_cast<C>(kLeastScale) ? 0 : sums[0][j] + grad_logdet / s;
      narrow(static_cast<C>(gradient), static_cast<S*>(grad_scale) + start + j);
      narrow(static_cast<C>(sums[1][j]), static_cast<S*>(grad_bias) + start + j);
    }
  }
}

template <class S>
void finish_weight(double* parts, int64_t parts_count, int64_t channels, const double* inverse,
                   double grad_log_det, void* grad_weight) {
  const int64_t count = channels * channels;
  for (int64_t i = 1; i < parts_count; ++i)
    for (int64_t j = 0; j < count; ++j) parts[j] += parts[i * count + j];
  for (int64_t j = 0; j < channels; ++j)
    for (int64_t k = 0; k < channels; ++k) {
      const double sum = parts_count ? parts[j * channels + k] : 0.0;
      narrow(static_cast<Number<S>>(sum + grad_log_det * inverse[k * channels + j]),
             static_cast<S*>(grad_weight) + j * channels + k);
    }
}

static double factor(double* matrix, int64_t channels, int64_t* order) {
  return lu_factor(matrix, channels, order);
}
static void invert(const double* factors, int64_t channels, const int64_t* order, double* inverse) {
  lu_inverse(factors, channels, order, inverse);
}

// Few channels have kernels of their own.
template <class S, bool inverse, int channels = 1>
void map_any(const ActnormConv1x1Arrays& arrays, const ActnormConv1x1Run& run, void* scratch) {
  if constexpr (channels <= kMostPacked<S>) {
    if (arrays.channels == channels) return map_run<S, channels, inverse>(arrays, run, scratch);
    return map_any<S, inverse, channels + 1>(arrays, run, scratch);
  } else {
    return map_run<S, 0, inverse>(arrays, run, scratch);
  }
}

template <class S, int channels = 1>
void backward_any(const ActnormConv1x1Arrays& arrays, const ActnormConv1x1Run& run, void* scratch,
                  const ActnormConv1x1Sums& sums) {
  if constexpr (channels <= kMostPacked<S>) {
    if (arrays.channels == channels) return backward_run<S, channels>(arrays, run, scratch, sums);
    return backward_any<S, channels + 1>(arrays, run, scratch, sums);
  } else {
    return backward_run<S, 0>(arrays, run, scratch, sums);
  }
}

const ActnormConv1x1Kernels& actnorm_conv1x1_kernels() {
  static const ActnormConv1x1Kernels kernels = {
      factor,
      invert,
      matrix_bytes,
      scratch_bytes,
      {widen_all<float>, widen_all<double>, widen_all<BFloat16>},
      {pack<float>, pack<double>, pack<BFloat16>},
      {log_scales<float>, log_scales<double>, log_scales<BFloat16>},
      {map_any<float, false>, map_any<double, false>, map_any<BFloat16, false>},
      {map_any<float, true>, map_any<double, true>, map_any<BFloat16, true>},
      {backward_any<float>, backward_any<double>, backward_any<BFloat16>},
      {finish<float>, finish<double>, finish<BFloat16>},
      {finish_weight<float>, finish_weight<double>, finish_weight<BFloat16>},
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
