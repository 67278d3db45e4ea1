// The actnorm_conv1x1 kernels for one instruction set (VFLOW_TARGET): scale and shift around products of
// each position's channels with the matrix (channel_products.h).
#include "actnorm_conv1x1_kernel.h"

#include "../common/lu.h"
#include "channel_products.h"

namespace vflow::VFLOW_TARGET {

constexpr double kLeastScale = 1e-10;

template <class S>
VFLOW_INLINE Vector<S> scale_at(const S* scale, int64_t offset, int64_t all) {
  return larger(splat<Vector<S>>(kLeastScale), load_at(scale, offset, all));
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

// after(offset, product of before(offset) with the matrix) for every vector of `all` numbers.
template <class S, int channels, class Before, class After>
VFLOW_INLINE void map_product(const ActnormConv1x1Arrays& arrays, const Groups<S>& groups, int64_t all,
                              const Room<S>& room, const Before& before, const After& after) {
  if constexpr (channels > 0) {
    const Rotations<S, channels> rotations(arrays.matrix);
    for_vectors<S>(groups, all,
                   [&](int64_t offset, int64_t) { after(offset, rotations.times(before(offset))); });
  } else {
    for (int64_t i = 0; i < all; i += kLanes<S>) store(before(i), room.in + i);
    product<S>(room.in, groups.count(all), groups, static_cast<const Number<S>*>(arrays.matrix),
               arrays.channels, room.out, [&](int64_t group, int64_t v, Vector<S> sums) {
                 after(group * groups.numbers + v * kLanes<S>, sums);
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
      for (int64_t i = 0; i < all; i += kLanes<S>) {
        const V normed = load_at(x, i, all) * scale_at(scale, i, all) + load_at(bias, i, all);
        store(normed, room.normed + i);
        store(load_at(grad_y, i, all), room.in + i);
      }
      const int64_t rows = groups.count(all);
      add_outer<S>(room.normed, room.in, rows, groups, width, room.outer);
      product<S>(room.in, rows, groups, static_cast<const C*>(arrays.matrix), width, room.out,
                 [&](int64_t group, int64_t v, V grad_normed) {
                   const int64_t offset = group * groups.numbers + v * kLanes<S>;
                   finish(offset, (group * groups.vectors + v) * kLanes<S>, load_at(x, offset, all),
                          scale_at(scale, offset, all), grad_normed);
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
void pack_all(const double* matrix, int64_t channels, bool transposed, void* packed) {
  pack<S>(matrix, channels, transposed, packed);
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
      {pack_all<float>, pack_all<double>, pack_all<BFloat16>},
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
