// Convolution whose every output is summed in one order, for one instruction set (VFLOW_TARGET): the bias,
// then row by row of the window, column by column, channel by channel, each product added with one rounding;
// or by tiles, whose products are so summed over the channels at each of 36 points (exact_winograd.h).
// Vectors go across output channels, so that their width changes no sum; places outside are zeros.
#include "exact_convolution_kernel.h"

#include <string.h>

#include <type_traits>

#include "exact_winograd.h"
#include "fused.h"
#include "parts.h"

namespace vflow::VFLOW_TARGET {

using V = FloatVector;
constexpr int kVectors = 2;    // of output channels, in a block
constexpr int kPositions = 6;  // side by side; their sums fill the registers
constexpr int kFew = 4;        // that many still hide the additions' latency
constexpr int64_t kBlock = kVectors * kLanes<float>;

static void pack(const float* weight, int64_t in, int64_t out, int side, float* packed) {
  const int64_t window = int64_t{side} * side * in;
  for (int64_t first = 0; first < out; first += kBlock)
    for (int64_t k = 0; k < window; ++k)
      for (int64_t c = 0; c < kBlock; ++c)
        *packed++ = first + c < out ? weight[(first + c) * window + k] : 0.0f;
}

// `positions` outputs side by side of a block's first `vectors` vectors of channels. x is where the first
// one's window begins.
template <int positions, int vectors>
static VFLOW_NOINLINE void outputs(const float* x, int64_t row_stride, int64_t in, int side,
                                   const float* weights, const float* bias, int64_t filled, float* y,
                                   int64_t out) {
  V sums[positions][vectors];
  for (int v = 0; v < vectors; ++v) {
    const int64_t left = filled - v * kLanes<float>;
    const V start = left > 0 ? load_some(bias + v * kLanes<float>, left) : V{};
    for (int p = 0; p < positions; ++p) sums[p][v] = start;
  }
  for (int row = 0; row < side; ++row) {
    const float* from = x + row * row_stride;
    for (int64_t k = 0; k < side * in; ++k, weights += kBlock) {
      V w[vectors];
      for (int v = 0; v < vectors; ++v) w[v] = load(weights + v * kLanes<float>);
      for (int p = 0; p < positions; ++p) {
        const V number = broadcast(from[p * in + k]);
        for (int v = 0; v < vectors; ++v) sums[p][v] = fused(number, w[v], sums[p][v]);
      }
    }
  }
  for (int p = 0; p < positions; ++p)
    for (int v = 0; v < vectors; ++v) {
      const int64_t left = filled - v * kLanes<float>;
      if (left > 0) store_some<float>(sums[p][v], left, y + p * out + v * kLanes<float>);
    }
}

// A line of outputs of one block of channels.
template <int vectors>
static void line_of(const ExactConvolutionArrays& arrays, const float* x, int64_t row_stride, int64_t channel,
                    int64_t filled, float* y) {
  const int64_t width = arrays.width, in = arrays.in, out = arrays.out;
  const float* weights = arrays.weights + channel * arrays.side * arrays.side * in;
  const float* bias = arrays.bias + channel;
  constexpr int many = kPositions * kVectors / vectors;
  const auto run = [&](auto positions, int64_t p) {
    outputs<positions, vectors>(x + p * in, row_stride, in, arrays.side, weights, bias, filled, y + p * out,
                                out);
  };
  int64_t p = 0;
  // Two fours are faster than a six and a two.
  for (; width - p >= many && width - p != 2 * kFew; p += many) run(std::integral_constant<int, many>{}, p);
  for (; width - p >= kFew; p += kFew) run(std::integral_constant<int, kFew>{}, p);
  for (; width - p >= 2; p += 2) run(std::integral_constant<int, 2>{}, p);
  for (; p < width; ++p) run(std::integral_constant<int, 1>{}, p);
}

static void rows(const ExactConvolutionArrays& arrays, int64_t image, int64_t first, int64_t count,
                 float* room) {
  const int64_t width = arrays.width, in = arrays.in, out = arrays.out, margin = arrays.side / 2;
  const int64_t stride = (width + 2 * margin) * in;
  const float* x = arrays.x + image * arrays.height * width * in;
  const float* from = x + first * width * in;
  if (margin) {
    memset(room, 0, static_cast<size_t>((count + 2 * margin) * stride) * sizeof(float));
    for (int64_t row = 0; row < count + 2 * margin; ++row) {
      const int64_t source = first + row - margin;
      if (source >= 0 && source < arrays.height)
        memcpy(room + row * stride + margin * in, x + source * width * in,
               static_cast<size_t>(width * in) * sizeof(float));
    }
    from = room;
  }
  for (int64_t channel = 0; channel < out; channel += kBlock) {
    const int64_t filled = out - channel < kBlock ? out - channel : kBlock;
    const auto line = filled > kLanes<float> ? line_of<kVectors> : line_of<1>;
    for (int64_t row = 0; row < count; ++row) {
      float* y = arrays.y + ((image * arrays.height + first + row) * width) * out + channel;
      line(arrays, from + row * stride, stride, channel, filled, y);
    }
  }
}

// By tiles

constexpr int64_t kSpare = 16;  // floats between points: at powers of two they would meet in the caches

static int64_t tiles_room(int64_t in) {
  return kTilePoints * (kTilesAtOnce * (in + kBlock) + 2 * kSpare) + in;
}

static void pack_tiles(const float* weight, int64_t in, int64_t out, float* packed) {
  constexpr int n = kTileInputs;
  for (int64_t first = 0; first < out; first += kBlock, packed += kTilePoints * in * kBlock)
    for (int64_t k = 0; k < in; ++k) {
      double window[3][3][kBlock], columns[n][3][kBlock], points[n][n][kBlock];
      for (int row = 0; row < 3; ++row)
        for (int column = 0; column < 3; ++column)
          for (int64_t c = 0; c < kBlock; ++c)
            window[row][column][c] =
                first + c < out ? weight[(((first + c) * 3 + row) * 3 + column) * in + k] : 0.0f;
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

// Where the tiles of an image lie in it.
struct TilePlace {
  int64_t image, row, column;

  TilePlace(const ExactConvolutionArrays& arrays, int64_t tile) {
    const int64_t columns = (arrays.width + kTileOutputs - 1) / kTileOutputs;
    const int64_t rows = (arrays.height + kTileOutputs - 1) / kTileOutputs;
    image = tile / (rows * columns);
    row = tile / columns % rows * kTileOutputs;
    column = tile % columns * kTileOutputs;
  }
};

// A tile's inputs at the points, each `stride` from the last; `zeros` are what lies outside.
static VFLOW_NOINLINE void tile_inputs(const ExactConvolutionArrays& arrays, TilePlace place,
                                       const float* zeros, int64_t stride, float* points) {
  constexpr int n = kTileInputs;
  const int64_t in = arrays.in;
  const float* from[n][n];
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      const int64_t row = place.row + i - 1, column = place.column + j - 1;
      const bool inside = row >= 0 && row < arrays.height && column >= 0 && column < arrays.width;
      from[i][j] =
          inside ? arrays.x + ((place.image * arrays.height + row) * arrays.width + column) * in : zeros;
    }
  for (int64_t c = 0; c < in; c += kLanes<float>) {
    V columns[n][n];
    for (int j = 0; j < n; ++j) {
      V line[n], at[n];
      for (int i = 0; i < n; ++i) line[i] = load_some(from[i][j] + c, in - c);
      inputs_at_points(line, at);
      for (int i = 0; i < n; ++i) columns[i][j] = at[i];
    }
    for (int i = 0; i < n; ++i) {
      V at[n];
      inputs_at_points(columns[i], at);
      for (int j = 0; j < n; ++j) store_some<float>(at[j], in - c, points + (i * n + j) * stride + c);
    }
  }
}

// A tile's outputs, of the channels of one vector.
static VFLOW_NOINLINE void tile_outputs(const ExactConvolutionArrays& arrays, TilePlace place,
                                        const float* products, int64_t stride, int64_t channel) {
  constexpr int n = kTileInputs, outputs = kTileOutputs;
  const int64_t filled = arrays.out - channel;
  const V bias = load_some(arrays.bias + channel, filled);
  V columns[outputs][n];
  for (int j = 0; j < n; ++j) {
    V line[n], found[outputs];
    for (int i = 0; i < n; ++i) line[i] = load(products + (i * n + j) * stride);
    outputs_of_points(line, found);
    for (int i = 0; i < outputs; ++i) columns[i][j] = found[i];
  }
  for (int i = 0; i < outputs && place.row + i < arrays.height; ++i) {
    V found[outputs];
    outputs_of_points(columns[i], found);
    const int64_t row = (place.image * arrays.height + place.row + i) * arrays.width + place.column;
    for (int j = 0; j < outputs && place.column + j < arrays.width; ++j)
      store_some<float>(found[j] + bias, filled, arrays.y + (row + j) * arrays.out + channel);
  }
}

static void tiles(const ExactConvolutionArrays& arrays, int64_t first, int64_t count, float* room) {
  const int64_t in = arrays.in, out = arrays.out;
  const int64_t stride = kTilesAtOnce * in + kSpare, product_stride = kTilesAtOnce * kBlock + kSpare;
  float *points = room, *products = points + kTilePoints * stride,
        *zeros = products + kTilePoints * product_stride;
  memset(zeros, 0, static_cast<size_t>(in) * sizeof(float));
  for (int64_t tile = 0; tile < count; ++tile)
    tile_inputs(arrays, TilePlace(arrays, first + tile), zeros, stride, points + tile * in);
  const float no_bias[kBlock] = {};
  for (int64_t channel = 0; channel < out; channel += kBlock) {
    const int64_t vectors = out - channel > kLanes<float> ? kVectors : 1;
    const auto line = vectors > 1 ? line_of<kVectors> : line_of<1>;
    const float* weights = arrays.weights + channel * kTilePoints * in;
    for (int point = 0; point < kTilePoints; ++point) {
      const ExactConvolutionArrays sums{
          nullptr, weights + point * in * kBlock, no_bias, nullptr, 1, count, in, kBlock, 1};
      line(sums, points + point * stride, 0, 0, kBlock, products + point * product_stride);
    }
    for (int64_t tile = 0; tile < count; ++tile)
      for (int64_t v = 0; v < vectors && channel + v * kLanes<float> < out; ++v)
        tile_outputs(arrays, TilePlace(arrays, first + tile), products + tile * kBlock + v * kLanes<float>,
                     product_stride, channel + v * kLanes<float>);
  }
}

const ExactConvolutionKernels& exact_convolution_kernels() {
  static const ExactConvolutionKernels kernels = {kBlock, pack, rows, pack_tiles, tiles_room, tiles};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
