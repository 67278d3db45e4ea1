// 3x3 convolution by tiles on the CPU: checks and threads.
#include "conv3x3_kernel.h"

#include <string.h>

#include <algorithm>

#include "parallel.h"

namespace vflow {

constexpr int64_t kPoints = 36;

struct Conv3x3Sizes {
  int64_t batch, height, width, in, out;

  int check(int dtype, int threads) const {
    if (dtype != VFLOW_FLOAT32 && dtype != VFLOW_BFLOAT16) return VFLOW_ERROR_DTYPE;
    if (batch < 0 || height < 0 || width < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
    if (in < 1 || out < 1) return VFLOW_ERROR_CHANNELS;
    if (threads < 1) return VFLOW_ERROR_THREADS;
    int64_t channels, bytes;  // of the points and of the arrays, each with room to spare
    if (__builtin_add_overflow(in, out, &channels) || __builtin_add_overflow(channels, 256, &channels) ||
        __builtin_mul_overflow(channels, channels, &bytes) || __builtin_mul_overflow(bytes, 256, &bytes) ||
        __builtin_mul_overflow(channels, 64, &bytes) || __builtin_mul_overflow(bytes, batch, &bytes) ||
        __builtin_mul_overflow(bytes, height + 4, &bytes) || __builtin_mul_overflow(bytes, width + 4, &bytes))
      return VFLOW_ERROR_OVERFLOW;
    return VFLOW_OK;
  }
  int64_t tiles() const { return batch * ((height + 3) / 4) * ((width + 3) / 4); }
};

// How the sums are shared among threads: rows of points in parts, blocks of channels in groups. Every part
// takes all inputs to the points it has, and every group all gradients; so they are the fewest that come
// within a tenth of keeping all threads at work.
struct Shares {
  int parts;
  int64_t groups;

  Shares(int threads, int64_t blocks) : parts(threads == 1 ? 1 : threads < 5 ? 2 : 6), groups(1) {
    while (groups < blocks && (pieces() + threads - 1) / threads * threads * 10 > pieces() * 11) ++groups;
  }
  int64_t pieces() const { return parts * groups; }
};

}  // namespace vflow

using namespace vflow;

int vflow_cpu_conv3x3(int dtype, const void* x, const float* weight, const float* bias, void* y,
                      int64_t batch, int64_t height, int64_t width, int64_t in, int64_t out, int transposed,
                      int threads) {
  const Conv3x3Sizes sizes{batch, height, width, in, out};
  if (const int error = sizes.check(dtype, threads)) return error;
  if (transposed != 0 && transposed != 1) return VFLOW_ERROR_FLAG;
  const int64_t tiles = sizes.tiles();
  if (tiles == 0) return VFLOW_OK;
  if (!x || !weight || !bias || !y) return VFLOW_ERROR_NULL_POINTER;
  const Conv3x3Kernels& kernels = VFLOW_BEST_KERNELS(conv3x3_kernels);
  const int64_t blocks = (out + kernels.block - 1) / kernels.block, packed = kPoints * in * kernels.block;
  // As many pieces for each thread: a last one alone would leave the others waiting.
  const int64_t least = (tiles + kConvolvedAtOnce - 1) / kConvolvedAtOnce;
  const int64_t shared = (least + threads - 1) / threads * threads;
  const int64_t at_once = (tiles + shared - 1) / shared, pieces = (tiles + at_once - 1) / at_once;
  const int64_t room = kernels.tiles_room(in) * 4;
  const int runners = threads_for(pieces, threads);
  const Scratch weights = allocate(packed * 4, blocks), rooms = allocate(room, runners);
  if (!weights || !rooms) return VFLOW_ERROR_OUT_OF_MEMORY;
  float* packing = reinterpret_cast<float*>(weights.get());
  prepare_output(y, batch * height * width * out * size_of(dtype));
  parallel_for(blocks, threads_for(blocks, threads), [&](int64_t block, int) {
    kernels.pack(weight, in, out, transposed, block * kernels.block, packing + block * packed);
  });
  const Conv3x3Arrays arrays{x, packing, bias, y, height, width, in, out};
  parallel_for(pieces, runners, [&](int64_t i, int thread) {
    const int64_t first = i * at_once;
    kernels.tiles[dtype](arrays, first, std::min(tiles - first, at_once),
                         reinterpret_cast<float*>(rooms.get() + thread * aligned(room)));
  });
  return VFLOW_OK;
}

int vflow_cpu_conv3x3_backward(int dtype, const void* grad, const void* x, float* grad_weight, int64_t batch,
                               int64_t height, int64_t width, int64_t in, int64_t out, int threads) {
  const Conv3x3Sizes sizes{batch, height, width, in, out};
  if (const int error = sizes.check(dtype, threads)) return error;
  if (!grad_weight) return VFLOW_ERROR_NULL_POINTER;
  const int64_t tiles = sizes.tiles();
  if (tiles == 0) {
    memset(grad_weight, 0, static_cast<size_t>(9 * in * out) * sizeof(float));
    return VFLOW_OK;
  }
  if (!grad || !x) return VFLOW_ERROR_NULL_POINTER;
  const Conv3x3Kernels& kernels = VFLOW_BEST_KERNELS(conv3x3_kernels);
  const int64_t blocks = (in + kernels.block - 1) / kernels.block;
  const Shares shares(threads, blocks);
  const int64_t pieces = shares.pieces(), room = kernels.sums_room(in, out, shares.parts) * 4;
  const int runners = threads_for(pieces, threads);
  const Scratch sums = allocate(kPoints * out * kernels.block * 4, blocks), zeros = allocate(in * 4, 1),
                rooms = allocate(room, runners);
  if (!sums || !zeros || !rooms) return VFLOW_ERROR_OUT_OF_MEMORY;
  memset(zeros.get(), 0, static_cast<size_t>(in) * 4);
  const Conv3x3GradientArrays arrays{
      grad, x, batch, height, width, in, out, zeros.get(), reinterpret_cast<float*>(sums.get())};
  parallel_for(pieces, runners, [&](int64_t i, int thread) {
    const int64_t group = i / shares.parts, groups = shares.groups;
    kernels.sums[dtype](arrays, static_cast<int>(i % shares.parts), shares.parts, group * blocks / groups,
                        (group + 1) * blocks / groups,
                        reinterpret_cast<float*>(rooms.get() + thread * aligned(room)));
  });
  parallel_for(blocks, threads_for(blocks, threads),
               [&](int64_t block, int) { kernels.gradient(arrays, block, grad_weight); });
  return VFLOW_OK;
}
