// 3x3 convolution by tiles, its transpose and its weights' gradient for one instruction set (VFLOW_TARGET).
#include "conv3x3_kernel.h"

#include "winograd_tiles.h"

namespace vflow::VFLOW_TARGET {

static void pack(const float* weight, int64_t in, int64_t out, int transposed, int64_t first, float* packed) {
  pack_tiles(weight, {in, out, transposed != 0}, first, packed);
}

static int64_t room_of_tiles(int64_t in) { return tiles_room(in, kConvolvedAtOnce); }

template <class S>
static void tiles(const Conv3x3Arrays& arrays, int64_t first, int64_t count, float* room) {
  const Images<const S> x = {static_cast<const S*>(arrays.x), arrays.height, arrays.width, arrays.in};
  const Images<S> y = {static_cast<S*>(arrays.y), arrays.height, arrays.width, arrays.out};
  convolve_tiles(x, arrays.weights, arrays.bias, y, first, count, kConvolvedAtOnce, room);
}

// The weights' gradient: at each point, inputs times gradients summed over the tiles, a product of matrices
// [out, tiles] and [tiles, in]; what the sums say of the weights is the transpose of what weights become at
// the points. A thread has rows of points for itself, and takes all tiles to them, some at a time: what
// threads would pass to one another costs more than what they would save.

constexpr int64_t kPointsFloats = 768 * 1024;  // of the tiles at hand, at all points
constexpr int64_t kLeastSummed = 24, kMostSummed = 128;

static int64_t summed_at_once(int64_t in, int64_t out) {
  const int64_t tiles = kPointsFloats / (kTilePoints * (in + out));
  return tiles < kLeastSummed ? kLeastSummed : tiles > kMostSummed ? kMostSummed : tiles;
}

static int64_t input_stride(int64_t in, int64_t tiles) {
  return (in + kBlock - 1) / kBlock * kBlock * tiles + kSpare;
}
static int64_t gradient_stride(int64_t out, int64_t tiles) { return out * tiles + kSpare; }

static int64_t sums_room(int64_t in, int64_t out, int parts) {
  const int64_t tiles = summed_at_once(in, out);
  return kTilePoints / parts * (input_stride(in, tiles) + gradient_stride(out, tiles));
}

// Rows of a tile's inputs at the points, in blocks of [tiles, kBlock].
template <int row, int rows, class S>
static VFLOW_NOINLINE void input_rows(const Images<const S>& x, TilePlace place, const S* zeros,
                                      int64_t first, int64_t last, int64_t tiles, float* points) {
  const int64_t stride = input_stride(x.channels, tiles);
  tile_inputs<row, rows>(x, place, zeros, first, last, [=](int point, int64_t c, FloatVector numbers) {
    store(numbers, points + point * stride + (c - first) / kBlock * tiles * kBlock + c % kBlock);
  });
}

// Rows of a tile's gradients at the points.
template <int row, int rows, class S>
static VFLOW_NOINLINE void gradient_rows(const Images<const S>& grad, TilePlace place, int64_t tiles,
                                         float* points) {
  constexpr int n = kTileInputs, outputs = kTileOutputs;
  constexpr std::make_integer_sequence<int, n> all{};
  const int64_t stride = gradient_stride(grad.channels, tiles);
  for (int64_t c = 0; c < grad.channels; c += kLanes<S>) {
    const int64_t left = grad.channels - c;
    FloatVector columns[outputs][rows];
    for (int j = 0; j < outputs; ++j) {
      FloatVector line[outputs];
      for (int i = 0; i < outputs; ++i) {
        const int64_t from_row = place.row + i, from_column = place.column + j;
        const bool inside = grad.inside(from_row, from_column);
        line[i] = inside ? load_some(grad.at(place.image, from_row, from_column) + c, left) : FloatVector{};
      }
      gradients_at<row>(line, columns[j], std::make_integer_sequence<int, rows>{});
    }
    for (int i = 0; i < rows; ++i) {
      FloatVector line[outputs], at[n];
      for (int j = 0; j < outputs; ++j) line[j] = columns[j][i];
      gradients_at<0>(line, at, all);
      for (int j = 0; j < n; ++j) store_some<float>(at[j], left, points + (i * n + j) * stride + c);
    }
  }
}

// `positions` output channels of a block's first `vectors` vectors of input channels.
template <int positions, int vectors>
static VFLOW_NOINLINE void sum_tiles(const float* grad, int64_t out, const float* x, int64_t count,
                                     bool go_on, float* sums) {
  using V = FloatVector;
  V held[positions][vectors];
  for (int p = 0; p < positions; ++p)
    for (int v = 0; v < vectors; ++v) held[p][v] = go_on ? load(sums + p * kBlock + v * kLanes<float>) : V{};
  for (int64_t tile = 0; tile < count; ++tile, x += kBlock, grad += out) {
    V inputs[vectors];
    for (int v = 0; v < vectors; ++v) inputs[v] = load(x + v * kLanes<float>);
    for (int p = 0; p < positions; ++p) {
      const V number = broadcast(grad[p]);
      for (int v = 0; v < vectors; ++v) held[p][v] = fused(number, inputs[v], held[p][v]);
    }
  }
  for (int p = 0; p < positions; ++p)
    for (int v = 0; v < vectors; ++v) store(held[p][v], sums + p * kBlock + v * kLanes<float>);
}

template <int vectors>
static void sum_block(const float* grad, int64_t out, const float* x, int64_t count, bool go_on,
                      float* sums) {
  constexpr int many = kPositions * kVectors / vectors;
  int64_t o = 0;
  for (; out - o >= many; o += many)
    sum_tiles<many, vectors>(grad + o, out, x, count, go_on, sums + o * kBlock);
  for (; out - o >= kFew; o += kFew)
    sum_tiles<kFew, vectors>(grad + o, out, x, count, go_on, sums + o * kBlock);
  for (; o < out; ++o) sum_tiles<1, vectors>(grad + o, out, x, count, go_on, sums + o * kBlock);
}

template <int row, int rows, class S>
static void sums_of_rows(const Conv3x3GradientArrays& arrays, int64_t first, int64_t last, float* room) {
  const int64_t in = arrays.in, out = arrays.out, at_once = summed_at_once(in, out);
  const int64_t stride = input_stride(in, at_once), grad_stride = gradient_stride(out, at_once);
  float *points = room, *grad_points = points + rows * kTileInputs * stride;
  const Images<const S> x = {static_cast<const S*>(arrays.x), arrays.height, arrays.width, in};
  const Images<const S> grad = {static_cast<const S*>(arrays.grad), arrays.height, arrays.width, out};
  const S* zeros = static_cast<const S*>(arrays.zeros);
  const int64_t to = last * kBlock < in ? last * kBlock : in;
  const int64_t tiles = TilePlace::count(arrays.batch, arrays.height, arrays.width);
  for (int64_t begin = 0; begin < tiles; begin += at_once) {
    const int64_t count = tiles - begin < at_once ? tiles - begin : at_once;
    for (int64_t i = 0; i < count; ++i) {
      const TilePlace place(arrays.height, arrays.width, begin + i);
      input_rows<row, rows>(x, place, zeros, first * kBlock, to, at_once, points + i * kBlock);
      gradient_rows<row, rows>(grad, place, at_once, grad_points + i * out);
    }
    for (int point = 0; point < rows * kTileInputs; ++point)
      for (int64_t block = first; block < last; ++block) {
        const float* inputs = points + point * stride + (block - first) * at_once * kBlock;
        float* sums = arrays.sums + (block * kTilePoints + row * kTileInputs + point) * out * kBlock;
        const auto run = in - block * kBlock > kLanes<float> ? sum_block<kVectors> : sum_block<1>;
        run(grad_points + point * grad_stride, out, inputs, count, begin > 0, sums);
      }
  }
}

template <class S>
static void sums(const Conv3x3GradientArrays& arrays, int part, int parts, int64_t first, int64_t last,
                 float* room) {
  using Run = void (*)(const Conv3x3GradientArrays&, int64_t, int64_t, float*);
  static constexpr Run halves[] = {sums_of_rows<0, 3, S>, sums_of_rows<3, 3, S>};
  static constexpr Run rows[] = {sums_of_rows<0, 1, S>, sums_of_rows<1, 1, S>, sums_of_rows<2, 1, S>,
                                 sums_of_rows<3, 1, S>, sums_of_rows<4, 1, S>, sums_of_rows<5, 1, S>};
  const Run run = parts == 1 ? sums_of_rows<0, 6, S> : parts == 2 ? halves[part] : rows[part];
  run(arrays, first, last, room);
}

static void gradient(const Conv3x3GradientArrays& arrays, int64_t block, float* grad_weight) {
  constexpr int n = kTileInputs;
  const int64_t in = arrays.in, out = arrays.out, first = block * kBlock;
  const int64_t filled = in - first < kBlock ? in - first : kBlock;
  const float* sums = arrays.sums + block * kTilePoints * out * kBlock;
  for (int64_t o = 0; o < out; ++o) {
    double points[n][n][kBlock], columns[3][n][kBlock], window[3][3][kBlock];
    for (int point = 0; point < kTilePoints; ++point)
      for (int64_t c = 0; c < kBlock; ++c)
        points[point / n][point % n][c] = sums[(point * out + o) * kBlock + c];
    for (int j = 0; j < n; ++j)
      for (int64_t c = 0; c < kBlock; ++c)
        weights_of_points(&points[0][j][c], n * kBlock, &columns[0][j][c], n * kBlock);
    for (int row = 0; row < 3; ++row)
      for (int64_t c = 0; c < kBlock; ++c)
        weights_of_points(&columns[row][0][c], kBlock, &window[row][0][c], kBlock);
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 3; ++column)
        for (int64_t c = 0; c < filled; ++c)
          grad_weight[((o * 3 + row) * 3 + column) * in + first + c] =
              static_cast<float>(window[row][column][c]);
  }
}

const Conv3x3Kernels& conv3x3_kernels() {
  static const Conv3x3Kernels kernels = {kBlock,        pack,
                                         room_of_tiles, {tiles<float>, nullptr, tiles<BFloat16>},
                                         sums_room,     {sums<float>, nullptr, sums<BFloat16>},
                                         gradient};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
