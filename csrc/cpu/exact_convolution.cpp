// Exact convolution: checks and threads.
#include "exact_convolution_kernel.h"
#include "parallel.h"

namespace vflow {

constexpr int64_t kRowsAtOnce = 4;
constexpr int64_t kPlacesAtOnce = 240;  // of a linear map, which knows no rows

}  // namespace vflow

using namespace vflow;

int vflow_cpu_exact_convolution(const float* x, const float* weight, const float* bias, float* y,
                                int64_t batch, int64_t height, int64_t width, int64_t in, int64_t out,
                                int side, int threads) {
  if (batch < 0 || height < 0 || width < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (in < 1 || out < 1) return VFLOW_ERROR_CHANNELS;
  if (side != 1 && side != 3) return VFLOW_ERROR_FLAG;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  // Its products too are summed in one order, over the channels at each of 36 points.
  if (side == 3 && in >= kLeastTiled)
    return vflow_cpu_conv3x3(VFLOW_FLOAT32, x, weight, bias, y, batch, height, width, in, out, 0, threads);
  const ExactConvolutionKernels& kernels = VFLOW_BEST_KERNELS(exact_convolution_kernels);
  int64_t inputs, outputs, packed, room;
  const int64_t blocks = (out + kernels.block - 1) / kernels.block;
  if (__builtin_mul_overflow(batch, height, &inputs) || __builtin_mul_overflow(inputs, width, &inputs) ||
      __builtin_mul_overflow(inputs, out, &outputs) ||
      __builtin_mul_overflow(outputs, int64_t{4}, &outputs) || __builtin_mul_overflow(inputs, in, &inputs) ||
      __builtin_mul_overflow(inputs, int64_t{4}, &inputs) ||
      __builtin_mul_overflow(width + 2, (kRowsAtOnce + 2) * 4, &room) ||
      __builtin_mul_overflow(room, in, &room) ||
      __builtin_mul_overflow(blocks * kernels.block, int64_t{9 * 4}, &packed) ||
      __builtin_mul_overflow(packed, in, &packed))
    return VFLOW_ERROR_OVERFLOW;
  if (batch == 0 || height == 0 || width == 0) return VFLOW_OK;
  if (!x || !weight || !bias || !y) return VFLOW_ERROR_NULL_POINTER;
  const int64_t runs = (height + kRowsAtOnce - 1) / kRowsAtOnce, places = batch * height * width;
  const int64_t pieces = side == 1 ? (places + kPlacesAtOnce - 1) / kPlacesAtOnce : batch * runs;
  threads = threads_for(pieces, threads);
  const Scratch weights = allocate(packed, 1), rooms = allocate(room, threads);
  if (!weights || !rooms) return VFLOW_ERROR_OUT_OF_MEMORY;
  float* packing = reinterpret_cast<float*>(weights.get());
  kernels.pack(weight, in, out, side, packing);
  const ExactConvolutionArrays arrays{x, packing, bias, y, height, width, in, out, side};
  parallel_for(pieces, threads, [&](int64_t i, int thread) {
    float* own = reinterpret_cast<float*>(rooms.get() + thread * aligned(room));
    if (side == 1) {
      ExactConvolutionArrays piece = arrays;
      const int64_t start = i * kPlacesAtOnce;
      piece.x += start * in;
      piece.y += start * out;
      piece.height = 1;
      piece.width = places - start < kPlacesAtOnce ? places - start : kPlacesAtOnce;
      return kernels.rows(piece, 0, 0, 1, nullptr);
    }
    const int64_t first = i % runs * kRowsAtOnce;
    kernels.rows(arrays, i / runs, first, height - first < kRowsAtOnce ? height - first : kRowsAtOnce, own);
  });
  return VFLOW_OK;
}
