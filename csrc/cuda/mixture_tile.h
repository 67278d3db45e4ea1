// A tile of neighbouring elements of one image, a thread each, and their parameters in shared memory.
//
// A row of 2 + 3K numbers seldom begins on a multiple of 16 bytes, but the tile does: it is copied as it
// lies, 16 bytes at a time, without passing through registers, and every thread then finds its own row.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "launch.h"
#include "math.h"
#include "numbers.h"
#include "rows.h"

#include "../common/mixlogistic.h"

namespace vflow::cuda {

// A number of components: K, or what is given where K is 0.
template <int K>
struct Components {
  __host__ __device__ Components() {}
  __host__ __device__ explicit Components(int64_t) {}
  __host__ __device__ constexpr operator int() const { return K; }
};
template <>
struct Components<0> {
  int value = 0;
  __host__ __device__ Components() {}
  __host__ __device__ explicit Components(int64_t components) : value(static_cast<int>(components)) {}
  __host__ __device__ operator int() const { return value; }
};

// Numbers as they are stored, computed with as `Real`.
template <class T>
struct Stored {
  const T* numbers;
  VFLOW_INLINE Real<T> operator[](int i) const { return to_real(numbers[i]); }
};

template <class T, int K>
using RowParams = Params<Real<T>, Stored<T>, Components<K>>;

// How an image is cut into tiles and a tile lies in shared memory; `Extra` Reals for each component besides.
template <class T, int K, int Extra = 0>
struct MixtureTiles {
  int64_t elements;  // of an image
  Components<K> components;
  int threads;  // elements of a tile
  int tiles;    // of an image
  bool staged;  // a tile fits in shared memory

  // Small enough for eight blocks on a multiprocessor of 228 KiB.
  static constexpr int64_t kTileBytes = 28 * 1024;

  MixtureTiles(int64_t elements, int64_t count, int most_threads)
      : elements(elements), components(count), threads(most_threads) {
    const auto bytes = [count](int64_t threads) {
      return threads * ((2 + 3 * count + kChunkNumbers<T>)*int64_t{sizeof(T)} +
                        Extra * count * int64_t{sizeof(Real<T>)});
    };
    while (threads > kWarp && bytes(threads) > kTileBytes) threads /= 2;
    staged = bytes(threads) <= kSharedBytes - 1024;
    tiles = static_cast<int>(quotient_up(elements, threads));
  }

  __host__ __device__ int row() const { return 2 + 3 * components; }
  // Rows of an even number of 16 bytes would lie on the same banks of memory; one more makes it odd.
  __host__ __device__ int gap() const { return row() % (2 * kChunkNumbers<T>) == 0 ? kChunkNumbers<T> : 0; }
  __host__ __device__ int stride() const { return row() + gap(); }
  __host__ __device__ int64_t tile_bytes() const {
    const int64_t bytes = staged ? int64_t{threads} * stride() * int64_t{sizeof(T)} : 0;
    return (bytes + kChunkBytes - 1) / kChunkBytes * kChunkBytes;
  }
  __host__ __device__ int64_t extra_bytes() const {
    return staged ? int64_t{threads} * Extra * components * int64_t{sizeof(Real<T>)} : 0;
  }

  // Where number i of a tile's parameters lies in shared memory.
  __device__ __forceinline__ int place(int i) const { return gap() == 0 ? i : i + i / row() * gap(); }

  // Whether `count` numbers there and at `global` can be moved 16 bytes at a time.
  static __device__ __forceinline__ bool in_chunks(const T* global, int count) {
    return (reinterpret_cast<uintptr_t>(global) | static_cast<uintptr_t>(count) * sizeof(T)) % kChunkBytes ==
           0;
  }

  // Fetches the rows of `live` elements; arrived() is when all of them are there.
  __device__ __forceinline__ void fetch(T* shared, const T* global, int live) const {
    const int count = live * row();
    if (in_chunks(global, count)) {
      for (int i = threadIdx.x * kChunkNumbers<T>; i < count; i += blockDim.x * kChunkNumbers<T>)
        __pipeline_memcpy_async(shared + place(i), global + i, kChunkBytes);
      __pipeline_commit();
    } else {
      for (int i = threadIdx.x; i < count; i += blockDim.x) shared[place(i)] = global[i];
    }
  }
  static __device__ __forceinline__ void arrived() {
    __pipeline_wait_prior(0);
    __syncthreads();
  }

  // Writes the rows of `live` elements.
  __device__ __forceinline__ void flush(const T* shared, T* global, int live) const {
    using Moved = Chunk<T, kChunkNumbers<T>>;
    const int count = live * row();
    __syncthreads();
    if (in_chunks(global, count)) {
      for (int i = threadIdx.x * kChunkNumbers<T>; i < count; i += blockDim.x * kChunkNumbers<T>)
        *reinterpret_cast<Moved*>(global + i) = *reinterpret_cast<const Moved*>(shared + place(i));
    } else {
      for (int i = threadIdx.x; i < count; i += blockDim.x) global[i] = shared[place(i)];
    }
  }
};

// The tile of a block.
struct TilePlace {
  int64_t image, first;  // the tile's first element among those of all images
  int live;              // elements

  template <class Tiles>
  __device__ __forceinline__ explicit TilePlace(const Tiles& tiles) {
    const unsigned image_index = blockIdx.x / static_cast<unsigned>(tiles.tiles);
    const int64_t start = int64_t{blockIdx.x - image_index * tiles.tiles} * tiles.threads;
    image = image_index;
    first = image * tiles.elements + start;
    live = static_cast<int>(tiles.elements - start < tiles.threads ? tiles.elements - start : tiles.threads);
  }
  __device__ __forceinline__ bool has_thread() const { return static_cast<int>(threadIdx.x) < live; }
};

struct MixtureSizes {
  int64_t batch, elements, components;

  int check(int dtype) const {
    if (!size_of(dtype)) return VFLOW_ERROR_DTYPE;
    if (batch < 0 || elements < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
    if (components < 1) return VFLOW_ERROR_COMPONENTS;
    if (components > (1 << 26)) return VFLOW_ERROR_OVERFLOW;
    int64_t bytes;
    return __builtin_mul_overflow(components, int64_t{8 * 8}, &bytes) ||
                   __builtin_mul_overflow(bytes, elements, &bytes) ||
                   __builtin_mul_overflow(bytes, batch, &bytes)
               ? VFLOW_ERROR_OVERFLOW
               : VFLOW_OK;
  }
};

// Calls `function` with a type of numbers, the squash and a number of components, each as a constant: the
// paper's numbers of components have kernels of their own where arithmetic is in float.
template <class T, bool squash, int K>
struct Variant {};

template <class T, bool squash, class Function>
int with_components(int64_t components, Function function) {
  if constexpr (sizeof(Real<T>) == sizeof(float)) {
    if (components == 4) return function(Variant<T, squash, 4>{});
    if (components == 10) return function(Variant<T, squash, 10>{});
    if (components == 32) return function(Variant<T, squash, 32>{});
  }
  return function(Variant<T, squash, 0>{});
}

template <class Function>
int with_variant(int dtype, int squash, int64_t components, Function function) {
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return squash ? with_components<T, true>(components, function)
                  : with_components<T, false>(components, function);
  });
}

}  // namespace vflow::cuda
