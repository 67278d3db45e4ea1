// 3x3 convolutions, zeros around, by tiles of 4x4 outputs (winograd.h). Memory holds S, float or BFloat16;
// weights, biases and all between are float.
#pragma once

#include <string.h>

#include "convolution_lines.h"
#include "winograd.h"

namespace vflow::VFLOW_TARGET {

constexpr int64_t kSpare = 16;  // floats between points: at powers of two they would meet in the caches

// How the weights of a convolution from `in` to `out` channels lie: [out, 3, 3, in], or [in, 3, 3, out] of
// the convolution whose transpose it is, so that windows are read backwards.
struct WeightLayout {
  int64_t in, out;
  bool transposed;

  VFLOW_INLINE int64_t of(int64_t to, int64_t from, int row, int column) const {
    return transposed ? ((from * 3 + 2 - row) * 3 + 2 - column) * out + to
                      : ((to * 3 + row) * 3 + column) * in + from;
  }
};

// The weights of a block of output channels from `first` at the points -> [36, in, kBlock].
inline void pack_tiles(const float* weight, const WeightLayout& layout, int64_t first, float* packed) {
  constexpr int n = kTileInputs;
  const int64_t in = layout.in, filled = layout.out - first < kBlock ? layout.out - first : kBlock;
  for (int64_t k = 0; k < in; ++k) {
    double window[3][3][kBlock] = {}, columns[n][3][kBlock], points[n][n][kBlock];
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 3; ++column)
        for (int64_t c = 0; c < filled; ++c)
          window[row][column][c] = weight[layout.of(first + c, k, row, column)];
    for (int column = 0; column < 3; ++column)
      for (int64_t c = 0; c < kBlock; ++c)
        weights_at_points(window[0][column][c], window[1][column][c], window[2][column][c],
                          &columns[0][column][c], 3 * kBlock);
    for (int row = 0; row < n; ++row)
      for (int64_t c = 0; c < kBlock; ++c)
        weights_at_points(columns[row][0][c], columns[row][1][c], columns[row][2][c], &points[row][0][c],
                          kBlock);
    for (int row = 0; row < n; ++row)
      for (int column = 0; column < n; ++column)
        for (int64_t c = 0; c < kBlock; ++c)
          packed[((row * n + column) * in + k) * kBlock + c] = static_cast<float>(points[row][column][c]);
  }
}

// Images [batch, height, width, channels].
template <class S>
struct Images {
  S* numbers;
  int64_t height, width, channels;

  VFLOW_INLINE S* at(int64_t image, int64_t row, int64_t column) const {
    return numbers + ((image * height + row) * width + column) * channels;
  }
  VFLOW_INLINE bool inside(int64_t row, int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width;
  }
};

// Where the first output of a tile lies, of the tiles of all images.
struct TilePlace {
  int64_t image, row, column;

  TilePlace(int64_t height, int64_t width, int64_t tile) {
    const int64_t columns = along(width);
    image = tile / count(1, height, width);
    row = tile / columns % along(height) * kTileOutputs;
    column = tile % columns * kTileOutputs;
  }
  static int64_t along(int64_t size) { return (size + kTileOutputs - 1) / kTileOutputs; }
  static int64_t count(int64_t batch, int64_t height, int64_t width) {
    return batch * along(height) * along(width);
  }
};

// Rows `row` to `row + rows` of a tile's inputs at the points, of channels `first` to `last`: `to` is given
// each point of these rows, the channel that a vector begins with, and the vector. `zeros` are the channels
// of a place outside.
template <int row, int rows, class S, class To>
VFLOW_INLINE void tile_inputs(const Images<const S>& x, TilePlace place, const S* zeros, int64_t first,
                              int64_t last, const To& to) {
  using V = FloatVector;
  constexpr int n = kTileInputs;
  const S* from[n][n];
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      const int64_t from_row = place.row + i - 1, from_column = place.column + j - 1;
      from[i][j] = x.inside(from_row, from_column) ? x.at(place.image, from_row, from_column) : zeros;
    }
  for (int64_t c = first; c < last; c += kLanes<S>) {
    V columns[n][rows];
    for (int j = 0; j < n; ++j) {
      V line[n];
      for (int i = 0; i < n; ++i) line[i] = load_some(from[i][j] + c, x.channels - c);
      inputs_at<row>(line, columns[j], std::make_integer_sequence<int, rows>{});
    }
    for (int i = 0; i < rows; ++i) {
      V line[n], at[n];
      for (int j = 0; j < n; ++j) line[j] = columns[j][i];
      inputs_at<0>(line, at, std::make_integer_sequence<int, n>{});
      for (int j = 0; j < n; ++j) to(i * n + j, c, at[j]);
    }
  }
}

// A tile's outputs, of the channels of one vector, from products that lie `stride` apart from point to point.
template <class S>
VFLOW_NOINLINE void tile_outputs(const Images<S>& y, TilePlace place, const float* products, int64_t stride,
                                 const float* bias, int64_t channel) {
  using V = FloatVector;
  constexpr int n = kTileInputs, outputs = kTileOutputs;
  const int64_t filled = y.channels - channel;
  const V start = load_some(bias + channel, filled);
  V columns[outputs][n];
  for (int j = 0; j < n; ++j) {
    V line[n], found[outputs];
    for (int i = 0; i < n; ++i) line[i] = load(products + (i * n + j) * stride);
    outputs_of_points(line, found);
    for (int i = 0; i < outputs; ++i) columns[i][j] = found[i];
  }
  for (int i = 0; i < outputs && place.row + i < y.height; ++i) {
    V found[outputs];
    outputs_of_points(columns[i], found);
    for (int j = 0; j < outputs && place.column + j < y.width; ++j)
      store_some<S>(found[j] + start, filled, y.at(place.image, place.row + i, place.column + j) + channel);
  }
}

// Floats that `convolve_tiles` needs for `at_once` tiles.
inline int64_t tiles_room(int64_t in, int64_t at_once) {
  return kTilePoints * (at_once * (in + kBlock) + 2 * kSpare) + in;
}

// `count` tiles, at most `at_once`, from the first of all images' that is asked for; weights are as
// `pack_tiles` leaves them.
template <class S>
void convolve_tiles(const Images<const S>& x, const float* weights, const float* bias, const Images<S>& y,
                    int64_t first, int64_t count, int64_t at_once, float* room) {
  const int64_t in = x.channels, out = y.channels;
  const int64_t stride = at_once * in + kSpare, product_stride = at_once * kBlock + kSpare;
  float *points = room, *products = points + kTilePoints * stride;
  S* zeros = reinterpret_cast<S*>(products + kTilePoints * product_stride);
  memset(zeros, 0, static_cast<size_t>(in) * sizeof(S));
  for (int64_t tile = 0; tile < count; ++tile)
    tile_inputs<0, kTileInputs>(x, TilePlace(x.height, x.width, first + tile), static_cast<const S*>(zeros),
                                0, in, [=](int point, int64_t c, FloatVector numbers) {
                                  store_some<float>(numbers, in - c, points + point * stride + tile * in + c);
                                });
  const float no_bias[kBlock] = {};
  for (int64_t channel = 0; channel < out; channel += kBlock) {
    const int64_t vectors = out - channel > kLanes<float> ? kVectors : 1;
    const auto line = vectors > 1 ? line_of<kVectors> : line_of<1>;
    for (int point = 0; point < kTilePoints; ++point) {
      const float* at_point = weights + (channel * kTilePoints + point * kBlock) * in;
      line({count, in, 0, 1, at_point, no_bias, kBlock, kBlock}, points + point * stride,
           products + point * product_stride);
    }
    for (int64_t tile = 0; tile < count; ++tile)
      for (int64_t v = 0; v < vectors && channel + v * kLanes<float> < out; ++v)
        tile_outputs(y, TilePlace(y.height, y.width, first + tile),
                     products + tile * kBlock + v * kLanes<float>, product_stride, bias,
                     channel + v * kLanes<float>);
  }
}

}  // namespace vflow::VFLOW_TARGET
