// actnorm_conv1x1 on the CPU: checks, the small matrix, threads, and the sums over images and positions.
#include <string.h>

#include "actnorm_conv1x1_kernel.h"
#include "parallel.h"

namespace vflow {

// Numbers of an image's part and images of a run. Constants: runs, and so the order of every sum, depend on
// the sizes alone. A run meets its positions' scale and bias, and sums their gradients, in the cache.
constexpr int64_t kRunNumbers = 768, kRunImages = 16;

struct Sizes {
  int64_t batch, positions, channels;

  int64_t numbers() const { return positions * channels; }  // of an image
};

static int check(int dtype, const Sizes& sizes, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (sizes.batch < 0 || sizes.positions < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (sizes.channels < 1) return VFLOW_ERROR_CHANNELS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t numbers, square;  // with room for what is computed from them
  if (__builtin_mul_overflow(sizes.channels, sizes.positions, &numbers) ||
      __builtin_mul_overflow(numbers, int64_t{64}, &numbers) ||
      __builtin_mul_overflow(numbers, sizes.batch, &numbers) ||
      __builtin_mul_overflow(sizes.channels, int64_t{1024}, &square) ||
      __builtin_mul_overflow(square, sizes.channels, &square))
    return VFLOW_ERROR_OVERFLOW;
  return VFLOW_OK;
}

// How the work is cut. Small images are taken several at a time, as one of as many more positions.
struct Plan {
  int64_t repeats, positions, images, blocks, chunks;

  explicit Plan(const Sizes& sizes) {
    const int64_t numbers = sizes.numbers();
    repeats = numbers > 0 ? kRunNumbers / numbers : 1;
    if (repeats > sizes.batch) repeats = sizes.batch;
    if (repeats < 1) repeats = 1;
    positions = repeats * sizes.positions;
    images = (sizes.batch + repeats - 1) / repeats;
    blocks = (repeats * numbers + kRunNumbers - 1) / kRunNumbers;
    if (blocks > positions) blocks = positions;
    chunks = (images + kRunImages - 1) / kRunImages;
  }
  int64_t runs() const { return blocks * chunks; }
  int64_t most_positions() const { return blocks > 0 ? (positions + blocks - 1) / blocks : 0; }
  int64_t first_position(int64_t block) const {
    const int64_t spare = positions % blocks;
    return positions / blocks * block + (block < spare ? block : spare);
  }
  ActnormConv1x1Run run(int64_t i) const {
    const int64_t block = i % blocks, image = i / blocks * kRunImages, first = first_position(block);
    return {image, images - image < kRunImages ? images - image : kRunImages, first,
            first_position(block + 1) - first};
  }
};

// The weight in double, its factors and its inverse.
class SmallMatrix {
 public:
  SmallMatrix(const ActnormConv1x1Kernels& kernels, int dtype, const void* weight, int64_t channels)
      : size_(channels * channels), memory_(allocate((3 * channels + 1) * channels * 8, 1)) {
    if (!memory_) return;
    double* factors = numbers() + size_;
    order_ = reinterpret_cast<int64_t*>(numbers() + 3 * size_);
    kernels.widen[dtype](weight, size_, numbers());
    for (int64_t i = 0; i < size_; ++i) factors[i] = numbers()[i];
    log_det_ = kernels.factor(factors, channels, order_);
  }
  explicit operator bool() const { return static_cast<bool>(memory_); }
  double* numbers() const { return reinterpret_cast<double*>(memory_.get()); }
  double log_det() const { return log_det_; }
  const double* inverse(const ActnormConv1x1Kernels& kernels, int64_t channels) {
    double* inverse = numbers() + 2 * size_;
    kernels.invert(numbers() + size_, channels, order_, inverse);
    return inverse;
  }

 private:
  int64_t size_;
  Scratch memory_;
  int64_t* order_ = nullptr;
  double log_det_ = 0;
};

// Scale or bias, once for every image that is taken as part of one.
class Repeated {
 public:
  Repeated(const void* numbers, int64_t bytes, int64_t repeats) : numbers_(numbers) {
    if (repeats == 1) return;
    memory_ = allocate(bytes * repeats, 1);
    numbers_ = memory_.get();
    if (!memory_) return;
    for (int64_t i = 0; i < repeats; ++i)
      memcpy(memory_.get() + i * bytes, numbers, static_cast<size_t>(bytes));
  }
  const void* get() const { return numbers_; }

 private:
  const void* numbers_;
  Scratch memory_;
};

// Calls function(i, scratch) for all runs; whether there was memory for it.
template <class Function>
static bool for_runs(const Plan& plan, const Sizes& sizes, int threads, const Function& function) {
  threads = threads_for(plan.runs(), threads);
  const int64_t bytes =
      VFLOW_BEST_KERNELS(actnorm_conv1x1_kernels).scratch_bytes(plan.most_positions(), sizes.channels);
  const Scratch scratch = allocate(bytes, threads);
  if (!scratch) return false;
  parallel_for(plan.runs(), threads,
               [&](int64_t i, int thread) { function(i, scratch.get() + thread * aligned(bytes)); });
  return true;
}

static int transform(bool inverse, int dtype, const RowsView& input, const void* scale, const void* bias,
                     const void* weight, void* output, void* logdet, const Sizes& sizes, int threads) {
  int error = check(dtype, sizes, threads);
  if (error || sizes.batch == 0) return error;
  const int64_t numbers = sizes.numbers();
  if (!weight || !logdet || (numbers > 0 && (!scale || !bias || !output))) return VFLOW_ERROR_NULL_POINTER;
  error = input.check(sizes.batch * numbers);
  if (error) return error;
  const ActnormConv1x1Kernels& kernels = VFLOW_BEST_KERNELS(actnorm_conv1x1_kernels);
  const Plan plan(sizes);
  SmallMatrix matrix(kernels, dtype, weight, sizes.channels);
  const Scratch packed = allocate(kernels.matrix_bytes(sizes.channels), 1);
  const Repeated scales(scale, numbers * size_of(dtype), plan.repeats);
  const Repeated biases(bias, numbers * size_of(dtype), plan.repeats);
  if (!matrix || !packed || (numbers > 0 && (!scales.get() || !biases.get())))
    return VFLOW_ERROR_OUT_OF_MEMORY;
  const double* factor = inverse ? matrix.inverse(kernels, sizes.channels) : matrix.numbers();
  kernels.pack[dtype](factor, sizes.channels, false, packed.get());

  ActnormConv1x1Arrays arrays{};
  arrays.input = input;
  arrays.scale = scales.get();
  arrays.bias = biases.get();
  arrays.matrix = packed.get();
  arrays.output = output;
  arrays.numbers = sizes.batch * numbers;
  arrays.positions = plan.positions;
  arrays.channels = sizes.channels;
  prepare_output(output, arrays.numbers * size_of(dtype));
  const auto run = inverse ? kernels.inverse[dtype] : kernels.forward[dtype];
  const bool done =
      for_runs(plan, sizes, threads, [&](int64_t i, void* scratch) { run(arrays, plan.run(i), scratch); });
  if (!done) return VFLOW_ERROR_OUT_OF_MEMORY;
  double sum =
      kernels.log_scales[dtype](scale, numbers) + static_cast<double>(sizes.positions) * matrix.log_det();
  if (inverse) sum = -sum;
  for (int64_t b = 0; b < sizes.batch; ++b)
    if (dtype == VFLOW_FLOAT64)
      static_cast<double*>(logdet)[b] = sum;
    else
      static_cast<float*>(logdet)[b] = static_cast<float>(sum);
  return VFLOW_OK;
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_actnorm_conv1x1(int dtype, const void* x, int64_t x_row, int64_t x_stride, const void* scale,
                              const void* bias, const void* weight, void* y, void* logdet, int64_t batch,
                              int64_t positions, int64_t channels, int threads) {
  return transform(false, dtype, {x, x_row, x_stride}, scale, bias, weight, y, logdet,
                   {batch, positions, channels}, threads);
}

int vflow_cpu_actnorm_conv1x1_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                      const void* scale, const void* bias, const void* weight, void* x,
                                      void* logdet, int64_t batch, int64_t positions, int64_t channels,
                                      int threads) {
  return transform(true, dtype, {y, y_row, y_stride}, scale, bias, weight, x, logdet,
                   {batch, positions, channels}, threads);
}

int vflow_cpu_actnorm_conv1x1_backward(int dtype, const void* grad_y, int64_t grad_y_row,
                                       int64_t grad_y_stride, const void* grad_logdet, const void* x,
                                       int64_t x_row, int64_t x_stride, const void* scale, const void* bias,
                                       const void* weight, void* grad_x, void* grad_scale, void* grad_bias,
                                       void* grad_weight, int64_t batch, int64_t positions, int64_t channels,
                                       int threads) {
  const Sizes sizes{batch, positions, channels};
  int error = check(dtype, sizes, threads);
  if (error) return error;
  const int64_t numbers = sizes.numbers();
  if (!weight || !grad_weight || (batch > 0 && !grad_logdet) ||
      (numbers > 0 && (!scale || !bias || !grad_scale || !grad_bias)) ||
      (batch > 0 && numbers > 0 && !grad_x))
    return VFLOW_ERROR_NULL_POINTER;
  ActnormConv1x1Arrays arrays{};
  arrays.input = {x, x_row, x_stride};
  arrays.grad_y = {grad_y, grad_y_row, grad_y_stride};
  arrays.numbers = batch * numbers;
  error = arrays.input.check(arrays.numbers);
  if (!error) error = arrays.grad_y.check(arrays.numbers);
  if (error) return error;

  const ActnormConv1x1Kernels& kernels = VFLOW_BEST_KERNELS(actnorm_conv1x1_kernels);
  const Plan plan(sizes);
  const int64_t square = channels * channels, real = dtype == VFLOW_FLOAT64 ? 8 : 4;
  const int64_t row_bytes = plan.repeats * numbers * real;  // of a part of the sums for scale or bias
  SmallMatrix matrix(kernels, dtype, weight, channels);
  const Scratch packed = allocate(kernels.matrix_bytes(channels), 1);
  const Scratch parts = allocate(2 * row_bytes, plan.chunks + 1);
  const Scratch weight_parts = allocate(square * 8, plan.runs() + 1);
  const Repeated scales(scale, numbers * size_of(dtype), plan.repeats);
  const Repeated biases(bias, numbers * size_of(dtype), plan.repeats);
  if (!matrix || !packed || !parts || !weight_parts || (numbers > 0 && (!scales.get() || !biases.get())))
    return VFLOW_ERROR_OUT_OF_MEMORY;
  kernels.pack[dtype](matrix.numbers(), channels, true, packed.get());
  arrays.scale = scales.get();
  arrays.bias = biases.get();
  arrays.matrix = packed.get();
  arrays.output = grad_x;
  arrays.positions = plan.positions;
  arrays.channels = channels;
  prepare_output(grad_x, arrays.numbers * size_of(dtype));
  auto* weight_sums = reinterpret_cast<double*>(weight_parts.get());
  const bool done = for_runs(plan, sizes, threads, [&](int64_t i, void* scratch) {
    char* chunk = parts.get() + i / plan.blocks * 2 * row_bytes;
    kernels.backward[dtype](arrays, plan.run(i), scratch,
                            {chunk, chunk + row_bytes, weight_sums + i * square});
  });
  if (!done) return VFLOW_ERROR_OUT_OF_MEMORY;
  double grad = 0;
  for (int64_t b = 0; b < batch; ++b)
    grad += dtype == VFLOW_FLOAT64 ? static_cast<const double*>(grad_logdet)[b]
                                   : static_cast<const float*>(grad_logdet)[b];
  kernels.finish[dtype](parts.get(), plan.chunks, plan.repeats, numbers, grad, scale, grad_scale, grad_bias);
  kernels.finish_weight[dtype](weight_sums, plan.runs(), channels, matrix.inverse(kernels, channels),
                               grad * static_cast<double>(positions), grad_weight);
  return VFLOW_OK;
}
