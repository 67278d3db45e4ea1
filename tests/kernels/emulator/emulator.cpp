// Runs blocks one after another, and a block's threads as fibers.
#include <stdio.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace vflow::cuda {
constexpr size_t kSharedBytes = 48 * 1024;
extern uint4 vflow_shared_memory[];
alignas(128) uint4 vflow_shared_memory[kSharedBytes / sizeof(uint4)];
}  // namespace vflow::cuda

namespace emulator {

using vflow::cuda::kSharedBytes;
using vflow::cuda::vflow_shared_memory;

constexpr int kWarp = 32, kDevices = 2;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024;

enum class State { ready, at_block_barrier, at_exchange, done };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;
  State state = State::done;
  uint64_t given = 0, received = 0;
  int source = 0;
  std::vector<Copy> copies;
};

static std::vector<Fiber> fibers;
static int count, current;
static ucontext_t scheduler;
static const std::function<void()>* body;
static int device, launches;
static cudaStream_t last_stream;
static bool reversed;

#if defined(__SANITIZE_ADDRESS__)
static const void* scheduler_bottom;
static size_t scheduler_size;
#endif

// AddressSanitizer wants to hear of every change of stacks.
static void leave(Fiber& fiber, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, scheduler_bottom, scheduler_size);
#endif
  if (for_good) setcontext(&scheduler);
  swapcontext(&fiber.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

static void begin_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  (*body)();
  fibers[current].state = State::done;
  leave(fibers[current], true);
}

static void resume(int index) {
  Fiber& fiber = fibers[index];
  current = index;
  threadIdx = {static_cast<unsigned>(index), 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

static void stop_at(State state) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  leave(fiber, false);
}

static bool all(int first, int end, State state) {
  for (int i = first; i < end; ++i)
    if (fibers[i].state != state) return false;
  return true;
}

// Lets go of the threads that wait for nobody any more; false if there are none.
static bool release() {
  bool released = false;
  for (int warp = 0; warp < count; warp += kWarp) {
    if (!all(warp, warp + kWarp, State::at_exchange)) continue;
    for (int i = warp; i < warp + kWarp; ++i) fibers[i].received = fibers[warp + fibers[i].source].given;
    for (int i = warp; i < warp + kWarp; ++i) fibers[i].state = State::ready;
    released = true;
  }
  if (!all(0, count, State::at_block_barrier)) return released;
  for (int i = 0; i < count; ++i) fibers[i].state = State::ready;
  return true;
}

static void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack.get(), 0, kStackBytes};
  fiber.context.uc_link = nullptr;
  fiber.state = State::ready;
  fiber.copies.clear();
  makecontext(&fiber.context, begin_fiber, 0);
}

static bool run_block() {
  for (int i = 0; i < count; ++i) prepare(fibers[i]);
  do {
    for (int i = 0; i < count; ++i) {
      const int next = reversed ? count - 1 - i : i;
      if (fibers[next].state == State::ready) resume(next);
    }
  } while (release());
  if (!all(0, count, State::done)) {
    fprintf(stderr, "emulator: not every thread of block %u came to a barrier\n", blockIdx.x);
    return false;
  }
  for (int i = 0; i < count; ++i)
    if (!fibers[i].copies.empty()) {
      fprintf(stderr, "emulator: thread %d of block %u did not wait for its copies\n", i, blockIdx.x);
      return false;
    }
  return true;
}

cudaError_t run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  const unsigned threads = config.blockDim.x;
  if (config.gridDim.x == 0 || threads == 0 || threads > kMostThreads || threads % kWarp ||
      config.dynamicSmemBytes > kSharedBytes)
    return cudaErrorInvalidConfiguration;
  ++launches;
  last_stream = config.stream;
  count = static_cast<int>(threads);
  if (fibers.size() < threads) fibers.resize(threads);
  body = &kernel;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
#if defined(__SSE__)
  const unsigned control = _mm_getcsr();
  _mm_setcsr(control | 0x8040);  // denormals are zero, as with -ftz=true
#endif
  bool good = true;
  for (unsigned block = 0; good && block < config.gridDim.x; ++block) {
    blockIdx = {block, 0, 0};
    memset(vflow_shared_memory, 0xff, kSharedBytes);
#if defined(__SANITIZE_ADDRESS__)
    char* end = reinterpret_cast<char*>(vflow_shared_memory) + config.dynamicSmemBytes;
    ASAN_POISON_MEMORY_REGION(end, kSharedBytes - config.dynamicSmemBytes);
#endif
    good = run_block();
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(vflow_shared_memory, kSharedBytes);
#endif
  }
#if defined(__SSE__)
  _mm_setcsr(control);
#endif
  return good ? cudaSuccess : cudaErrorLaunchFailure;
}

void wait_for_block() { stop_at(State::at_block_barrier); }

uint64_t exchange(uint64_t number, int source_lane) {
  Fiber& fiber = fibers[current];
  fiber.given = number;
  fiber.source = source_lane % kWarp;
  stop_at(State::at_exchange);
  return fiber.received;
}

int lane() { return current % kWarp; }

void copy_later(void* to, const void* from, size_t bytes) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes) {
    fprintf(stderr, "emulator: a copy of %zu bytes is not aligned\n", bytes);
    return;  // what was to arrive stays NaN
  }
  fibers[current].copies.push_back({to, from, bytes});
}

void arrive() {
  for (const Copy& copy : fibers[current].copies) memcpy(copy.to, copy.from, copy.bytes);
  fibers[current].copies.clear();
}

}  // namespace emulator

cudaError_t cudaGetDevice(int* device) {
  *device = emulator::device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulator::kDevices) return cudaErrorInvalidDevice;
  emulator::device = device;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "unspecified launch failure";
}

// What a test may ask and set.
extern "C" {
void emulator_reverse(int reversed) { emulator::reversed = reversed != 0; }
int emulator_device() { return emulator::device; }
int emulator_launches() { return emulator::launches; }
void* emulator_last_stream() { return emulator::last_stream; }
}
