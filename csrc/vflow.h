// The C ABI of the native libraries: pointers, sizes, thread counts -> error code.
//
// Everything is row-major. An array is contiguous unless it comes with `*_row` and `*_stride`: then it lies
// in rows of `*_row` numbers side by side, `*_stride` numbers from the start of a row to that of the next,
// as does the half of a checkerboard split (a stride of 0 repeats one row). A library never throws, prints
// or keeps state between calls, and writes nothing when it returns an error. No result depends on `threads`.
// Change VFLOW_ABI_VERSION (and ABI_VERSION of vflow/ops/native.py) with any change of a signature or of the
// meaning of an argument.
#pragma once

#include <stdint.h>

#define VFLOW_ABI_VERSION 6

#if defined(_WIN32)
#define VFLOW_API extern "C" __declspec(dllexport)
#else
#define VFLOW_API extern "C" __attribute__((visibility("default")))
#endif

// What the arrays hold; float16 in CUDA only. Arithmetic is in float for the half types, and log-determinants
// and their gradients, marked `real` below, are float for all but double.
enum vflow_dtype { VFLOW_FLOAT32 = 0, VFLOW_FLOAT64 = 1, VFLOW_BFLOAT16 = 2, VFLOW_FLOAT16 = 3 };

enum vflow_error {
  VFLOW_OK = 0,
  VFLOW_ERROR_NULL_POINTER = 1,
  VFLOW_ERROR_NEGATIVE_SIZE = 2,
  VFLOW_ERROR_COMPONENTS = 3,  // fewer than one mixture component
  VFLOW_ERROR_OVERFLOW = 4,    // the sizes' product does not fit in 63 bits
  VFLOW_ERROR_THREADS = 5,     // fewer than one thread
  VFLOW_ERROR_OUT_OF_MEMORY = 6,
  VFLOW_ERROR_DTYPE = 7,       // none of enum vflow_dtype
  VFLOW_ERROR_ROWS = 8,        // a row length that does not divide the array, or a negative stride
  VFLOW_ERROR_FLAG = 9,        // neither 0 nor 1
  VFLOW_ERROR_CHANNELS = 10,   // fewer than one channel or head
  VFLOW_ERROR_DROPOUT = 11,    // a probability of dropout that is not within [0, 1)
  VFLOW_ERROR_WORKSPACE = 12,  // fewer bytes than the workspace function asks for, or not aligned to 16
  VFLOW_ERROR_TOO_MANY_CHANNELS = 13,
  VFLOW_ERROR_CODER = 14,        // a coder, a table or a number of bits that cannot be
  VFLOW_ERROR_CODER_RANGE = 15,  // a number that the coder does not take
  VFLOW_ERROR_CODER_EMPTY = 16,  // a lane has no bits left
  VFLOW_ERROR_CODER_FULL = 17,   // a lane has no room left
  VFLOW_ERROR_CUDA = 10000,      // plus the code of cudaError_t
};

// VFLOW_ABI_VERSION of the library.
VFLOW_API int vflow_abi_version(void);

// What a code of enum vflow_error means, in a few words; never null.
VFLOW_API const char* vflow_error_message(int error);

// The instruction set the CPU kernels run on here, e.g. "x86-64-v3": the best of this processor, or what the
// environment variable VFLOW_CPU_TARGET names, if that can be had.
VFLOW_API const char* vflow_cpu_target(void);

// Mixture-of-logistics coupling transform of x [batch, elements] by params
// [batch, elements, 2 + 3 components] -> y [batch, elements], real logdet [batch].
VFLOW_API int vflow_cpu_mixlogistic(int dtype, const void* x, int64_t x_row, int64_t x_stride,
                                    const void* params, void* y, void* logdet, int64_t batch,
                                    int64_t elements, int64_t components, int squash, int threads);

// Its gradient, for grad_y [batch, elements] and real grad_logdet [batch] -> grad_x [batch, elements],
// grad_params [batch, elements, 2 + 3 components].
VFLOW_API int vflow_cpu_mixlogistic_backward(int dtype, const void* grad_y, int64_t grad_y_row,
                                             int64_t grad_y_stride, const void* grad_logdet, const void* x,
                                             int64_t x_row, int64_t x_stride, const void* params,
                                             void* grad_x, void* grad_params, int64_t batch, int64_t elements,
                                             int64_t components, int squash, int threads);

// Its inverse: y [batch, elements] -> x [batch, elements], real logdet [batch] of the inverse map.
VFLOW_API int vflow_cpu_mixlogistic_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                            const void* params, void* x, void* logdet, int64_t batch,
                                            int64_t elements, int64_t components, int squash, int threads);

// y = (x * max(scale, 1e-10) + bias) @ weight for x [batch, positions, channels], scale and bias
// [positions, channels] and weight [channels, channels] -> y like x, real logdet [batch]: the sum of
// log scale and `positions` times log|det weight|, which is taken in double.
VFLOW_API int vflow_cpu_actnorm_conv1x1(int dtype, const void* x, int64_t x_row, int64_t x_stride,
                                        const void* scale, const void* bias, const void* weight, void* y,
                                        void* logdet, int64_t batch, int64_t positions, int64_t channels,
                                        int threads);

// Its gradient, for grad_y [batch, positions, channels] and real grad_logdet [batch] -> gradients like the
// inputs; that of a scale below 1e-10 is zero. Those of scale, bias and weight are written for an empty
// batch too.
VFLOW_API int vflow_cpu_actnorm_conv1x1_backward(int dtype, const void* grad_y, int64_t grad_y_row,
                                                 int64_t grad_y_stride, const void* grad_logdet,
                                                 const void* x, int64_t x_row, int64_t x_stride,
                                                 const void* scale, const void* bias, const void* weight,
                                                 void* grad_x, void* grad_scale, void* grad_bias,
                                                 void* grad_weight, int64_t batch, int64_t positions,
                                                 int64_t channels, int threads);

// Its inverse: y [batch, positions, channels] -> x like y, real logdet [batch] of the inverse map; NaN
// for a weight that is singular.
VFLOW_API int vflow_cpu_actnorm_conv1x1_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                                const void* scale, const void* bias, const void* weight,
                                                void* x, void* logdet, int64_t batch, int64_t positions,
                                                int64_t channels, int threads);

// LayerNorm(x + a * sigmoid(b)) over the features, eps 1e-5, with [a, b] = ab: x [rows, features], ab
// [rows, 2 features], real weight and bias [features] -> y like x.
VFLOW_API int vflow_cpu_gated_residual_norm(int dtype, const void* x, const void* ab, const void* weight,
                                            const void* bias, void* y, int64_t rows, int64_t features,
                                            int threads);

// Its gradient, for grad [rows, features] -> gradients like the inputs. Those of weight and bias, side by
// side in real grad_weight_bias [2, features], are written for no rows too.
VFLOW_API int vflow_cpu_gated_residual_norm_backward(int dtype, const void* grad, const void* x,
                                                     const void* ab, const void* weight, void* grad_x,
                                                     void* grad_ab, void* grad_weight_bias, int64_t rows,
                                                     int64_t features, int threads);

// elu([x, -x]) along the rows: x [rows, channels] -> y [rows, 2 channels].
VFLOW_API int vflow_cpu_concat_elu(int dtype, const void* x, void* y, int64_t rows, int64_t channels,
                                   int threads);

// Its gradient, for grad [rows, 2 channels] -> grad_x [rows, channels].
VFLOW_API int vflow_cpu_concat_elu_backward(int dtype, const void* grad, const void* x, void* grad_x,
                                            int64_t rows, int64_t channels, int threads);

// The same with dropout of y: element (r, c) of y, taken as [2 rows, channels], becomes 0 where word r % 4 of
// Philox4x32-10 is below floor(dropout 2^32) and is divided by 1 - dropout elsewhere. The counter is
// r / 4 * channels + c; the key is the two words of 32 bits that seed [2] holds.
VFLOW_API int vflow_cpu_concat_elu_dropout(int dtype, const void* x, const int64_t* seed, void* y,
                                           int64_t rows, int64_t channels, double dropout, int threads);

// Its gradient.
VFLOW_API int vflow_cpu_concat_elu_dropout_backward(int dtype, const void* grad, const void* x,
                                                    const int64_t* seed, void* grad_x, int64_t rows,
                                                    int64_t channels, double dropout, int threads);

// Dropout of x [rows, channels] by the same rule -> y like x. It is its own gradient.
VFLOW_API int vflow_cpu_dropout(int dtype, const void* x, const int64_t* seed, void* y, int64_t rows,
                                int64_t channels, double dropout, int threads);

// Self-attention over all positions of qkv [batch, positions, 3, heads, width] -> output
// [batch, positions, heads, width] and real log_total [batch, heads, positions], the logarithm of the
// softmax's denominator, which the gradient wants back.
VFLOW_API int vflow_cpu_self_attention(int dtype, const void* qkv, void* output, void* log_total,
                                       int64_t batch, int64_t positions, int64_t heads, int64_t width,
                                       int threads);

// Its gradient, for grad like output and real grad_log_total like log_total -> grad_qkv like qkv.
VFLOW_API int vflow_cpu_self_attention_backward(int dtype, const void* grad, const void* grad_log_total,
                                                const void* qkv, const void* output, const void* log_total,
                                                void* grad_qkv, int64_t batch, int64_t positions,
                                                int64_t heads, int64_t width, int threads);

// The CUDA functions, of a library of their own, do what the CPU's of the same name do. They queue kernels on
// `stream` of `device` and return: they neither wait nor allocate, so that a CUDA graph can capture them.
// Pointers are to the device's memory. What they need besides comes as `workspace`, of at least as many bytes
// as the function of that name says (or minus an error), aligned to 16; its contents do not matter, and it
// may be used again as soon as the stream has come past. Results do not depend on the device's speed or load.

VFLOW_API int64_t vflow_cuda_mixlogistic_workspace(int dtype, int64_t batch, int64_t elements,
                                                   int64_t components);
VFLOW_API int vflow_cuda_mixlogistic(int dtype, const void* x, int64_t x_row, int64_t x_stride,
                                     const void* params, void* y, void* logdet, int64_t batch,
                                     int64_t elements, int64_t components, int squash, void* workspace,
                                     int64_t workspace_bytes, int device, void* stream);
VFLOW_API int vflow_cuda_mixlogistic_backward(int dtype, const void* grad_y, int64_t grad_y_row,
                                              int64_t grad_y_stride, const void* grad_logdet, const void* x,
                                              int64_t x_row, int64_t x_stride, const void* params,
                                              void* grad_x, void* grad_params, int64_t batch,
                                              int64_t elements, int64_t components, int squash, int device,
                                              void* stream);

VFLOW_API int64_t vflow_cuda_mixlogistic_inverse_workspace(int dtype, int64_t batch, int64_t elements,
                                                           int64_t components);
VFLOW_API int vflow_cuda_mixlogistic_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                             const void* params, void* x, void* logdet, int64_t batch,
                                             int64_t elements, int64_t components, int squash,
                                             void* workspace, int64_t workspace_bytes, int device,
                                             void* stream);

// At most 1024 channels; more than 64 are slow.
VFLOW_API int64_t vflow_cuda_actnorm_conv1x1_workspace(int dtype, int64_t batch, int64_t positions,
                                                       int64_t channels);
VFLOW_API int vflow_cuda_actnorm_conv1x1(int dtype, const void* x, int64_t x_row, int64_t x_stride,
                                         const void* scale, const void* bias, const void* weight, void* y,
                                         void* logdet, int64_t batch, int64_t positions, int64_t channels,
                                         void* workspace, int64_t workspace_bytes, int device, void* stream);
VFLOW_API int64_t vflow_cuda_actnorm_conv1x1_backward_workspace(int dtype, int64_t batch, int64_t positions,
                                                                int64_t channels);
VFLOW_API int vflow_cuda_actnorm_conv1x1_backward(
    int dtype, const void* grad_y, int64_t grad_y_row, int64_t grad_y_stride, const void* grad_logdet,
    const void* x, int64_t x_row, int64_t x_stride, const void* scale, const void* bias, const void* weight,
    void* grad_x, void* grad_scale, void* grad_bias, void* grad_weight, int64_t batch, int64_t positions,
    int64_t channels, void* workspace, int64_t workspace_bytes, int device, void* stream);
VFLOW_API int64_t vflow_cuda_actnorm_conv1x1_inverse_workspace(int dtype, int64_t batch, int64_t positions,
                                                               int64_t channels);
VFLOW_API int vflow_cuda_actnorm_conv1x1_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                                 const void* scale, const void* bias, const void* weight,
                                                 void* x, void* logdet, int64_t batch, int64_t positions,
                                                 int64_t channels, void* workspace, int64_t workspace_bytes,
                                                 int device, void* stream);

VFLOW_API int64_t vflow_cuda_gated_residual_norm_backward_workspace(int dtype, int64_t rows,
                                                                    int64_t features);
VFLOW_API int vflow_cuda_gated_residual_norm(int dtype, const void* x, const void* ab, const void* weight,
                                             const void* bias, void* y, int64_t rows, int64_t features,
                                             int device, void* stream);
VFLOW_API int vflow_cuda_gated_residual_norm_backward(int dtype, const void* grad, const void* x,
                                                      const void* ab, const void* weight, void* grad_x,
                                                      void* grad_ab, void* grad_weight_bias, int64_t rows,
                                                      int64_t features, void* workspace,
                                                      int64_t workspace_bytes, int device, void* stream);

VFLOW_API int vflow_cuda_concat_elu(int dtype, const void* x, void* y, int64_t rows, int64_t channels,
                                    int device, void* stream);
VFLOW_API int vflow_cuda_concat_elu_backward(int dtype, const void* grad, const void* x, void* grad_x,
                                             int64_t rows, int64_t channels, int device, void* stream);

// The seed, too, is in the device's memory, where the kernels read it: a captured graph draws another mask
// once its two words have changed.
VFLOW_API int vflow_cuda_concat_elu_dropout(int dtype, const void* x, const int64_t* seed, void* y,
                                            int64_t rows, int64_t channels, double dropout, int device,
                                            void* stream);
VFLOW_API int vflow_cuda_concat_elu_dropout_backward(int dtype, const void* grad, const void* x,
                                                     const int64_t* seed, void* grad_x, int64_t rows,
                                                     int64_t channels, double dropout, int device,
                                                     void* stream);
VFLOW_API int vflow_cuda_dropout(int dtype, const void* x, const int64_t* seed, void* y, int64_t rows,
                                 int64_t channels, double dropout, int device, void* stream);

// y [batch, height, width, out] = bias + x [batch, height, width, in] convolved with weight [out, 3, 3, in],
// zeros around; or, `transposed`, with that of the convolution whose transpose it is, weight [in, 3, 3, out].
// Weight and bias are float, x and y float or bfloat16.
VFLOW_API int vflow_cpu_conv3x3(int dtype, const void* x, const float* weight, const float* bias, void* y,
                                int64_t batch, int64_t height, int64_t width, int64_t in, int64_t out,
                                int transposed, int threads);

// The gradient of its weight, float [out, 3, 3, in], for grad [batch, height, width, out].
VFLOW_API int vflow_cpu_conv3x3_backward(int dtype, const void* grad, const void* x, float* grad_weight,
                                         int64_t batch, int64_t height, int64_t width, int64_t in,
                                         int64_t out, int threads);

// The lossless coder. A coder's lanes are stacks of bits, each a state of at least 2^32 over `capacity` words
// of which `counts` are in use; an operation may add two words a number to its lane, and eight where the
// number is far out. `lent` counts the words that a lane has taken from below its bottom, a fixed sequence;
// without it that is an error. After an error the lanes are as they may be. Numbers are whole, over 2^grid.
// Each pair undoes one another.
struct vflow_coder {
  int64_t lanes, capacity;
  uint64_t* states;        // [lanes]
  uint32_t* words;         // [lanes, capacity]
  int64_t *counts, *lent;  // [lanes]; lent may be null
};

// Numbers of so many bits each, all as likely.
VFLOW_API int vflow_cpu_coder_push_bits(const struct vflow_coder* coder, const int64_t* numbers,
                                        int64_t count, int bits, int threads);
VFLOW_API int vflow_cpu_coder_pop_bits(const struct vflow_coder* coder, int64_t* numbers, int64_t count,
                                       int bits, int threads);

// Numbers of the standard normal distribution, whose bins' masses end at `starts` [530] (csrc/cpu/coder.cpp).
VFLOW_API int vflow_cpu_coder_push_normal(const struct vflow_coder* coder, const int64_t* numbers,
                                          int64_t count, int grid, const uint32_t* starts, int threads);
VFLOW_API int vflow_cpu_coder_pop_normal(const struct vflow_coder* coder, int64_t* numbers, int64_t count,
                                         int grid, const uint32_t* starts, int threads);

// x, the lower 2^cell_bits of which are its place in a cell, to its place in [lower, lower + width), the
// cell's image.
VFLOW_API int vflow_cpu_coder_cells(const struct vflow_coder* coder, const int64_t* x, const int64_t* lower,
                                    const int64_t* width, int64_t* y, int64_t count, int cell_bits,
                                    int threads);
VFLOW_API int vflow_cpu_coder_cells_inverse(const struct vflow_coder* coder, const int64_t* y,
                                            const int64_t* cell, const int64_t* lower, const int64_t* width,
                                            int64_t* x, int64_t count, int cell_bits, int threads);

// y = x factor / 2^shift + offset, the three [period] and repeated, |factor| below 2^20.
VFLOW_API int vflow_cpu_coder_scale(const struct vflow_coder* coder, const int64_t* x, const int64_t* factor,
                                    const int64_t* shift, const int64_t* offset, int64_t* y, int64_t count,
                                    int64_t period, int threads);
VFLOW_API int vflow_cpu_coder_scale_inverse(const struct vflow_coder* coder, const int64_t* y,
                                            const int64_t* factor, const int64_t* shift,
                                            const int64_t* offset, int64_t* x, int64_t count, int64_t period,
                                            int threads);

// What follows is exact: every bit of a result is a function of the inputs alone, on every processor, for any
// instruction set, threads and batch.

// The images of the cells that the numbers x [count] are in, under the mixture-of-logistics transform with
// params [count, 2 + 3 components] of float or double; and the cells in whose images the numbers y are. Where
// there is none the width is 0.
VFLOW_API int vflow_cpu_exact_mixture_cells(int dtype, const int64_t* x, const void* params, int64_t* lower,
                                            int64_t* width, int64_t count, int64_t components, int squash,
                                            int grid, int cell_bits, int threads);
VFLOW_API int vflow_cpu_exact_mixture_find(int dtype, const int64_t* y, const void* params, int64_t* cell,
                                           int64_t* lower, int64_t* width, int64_t count, int64_t components,
                                           int squash, int grid, int cell_bits, int threads);

enum vflow_function { VFLOW_EXP = 0, VFLOW_LOG = 1, VFLOW_TANH = 2, VFLOW_SIGMOID = 3 };

// y = function(x), elementwise.
VFLOW_API int vflow_cpu_exact_function(int function, const double* x, double* y, int64_t count, int threads);

// rows [count, channels] times a triangular matrix [channels, channels] of ones on its diagonal, each of the
// sums rounded to whole numbers; in place. A result beyond 2^50 is an error, after which the rows are as they
// may be.
VFLOW_API int vflow_cpu_exact_lift(int64_t* rows, const double* matrix, int64_t count, int64_t channels,
                                   int upper, int inverse, int threads);

// y [batch, height, width, out] = bias + x [batch, height, width, in] convolved with weight
// [out, side, side, in], side 1 or 3, zeros around.
VFLOW_API int vflow_cpu_exact_convolution(const float* x, const float* weight, const float* bias, float* y,
                                          int64_t batch, int64_t height, int64_t width, int64_t in,
                                          int64_t out, int side, int threads);

// elu([x, -x]) of x [rows, channels] -> y [rows, 2 channels].
VFLOW_API int vflow_cpu_exact_concat_elu(const float* x, float* y, int64_t rows, int64_t channels,
                                         int threads);

// x + a sigmoid(b), [a, b] = ab, of x [rows, features]; normalised as LayerNorm does where there are a weight
// and a bias [features], which may both be null.
VFLOW_API int vflow_cpu_exact_gated_residual(const float* x, const float* ab, const float* weight,
                                             const float* bias, float* y, int64_t rows, int64_t features,
                                             int threads);

// softmax(Q K^T / sqrt(width)) V for each head: qkv [batch, positions, 3, heads, width] -> y
// [batch, positions, heads, width].
VFLOW_API int vflow_cpu_exact_attention(const float* qkv, float* y, int64_t batch, int64_t positions,
                                        int64_t heads, int64_t width, int threads);
