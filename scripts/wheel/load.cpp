// Loads the native library of a wheel and asks it for its ABI and for a few numbers, where there is no Python to ask:
//     load LIBRARY
#include <cmath>
#include <cstdio>
#include <dlfcn.h>

#include "../../csrc/vflow.h"

// Its function of a name, as vflow.h has it; null if there is none.
#define FIND(library, name) reinterpret_cast<decltype(&name)>(dlsym(library, #name))

int main(int count, char** words) {
  void* library = count == 2 ? dlopen(words[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "load: %s\n", count == 2 ? dlerror() : "usage: load LIBRARY");
    return 1;
  }
  auto version = FIND(library, vflow_abi_version);
  auto target = FIND(library, vflow_cpu_target);
  auto concat_elu = FIND(library, vflow_cpu_concat_elu);
  if (version == nullptr || target == nullptr || concat_elu == nullptr) {
    std::fprintf(stderr, "load: a function is missing\n");
    return 1;
  }
  if (version() != VFLOW_ABI_VERSION) {
    std::fprintf(stderr, "load: ABI %d and not %d\n", version(), VFLOW_ABI_VERSION);
    return 1;
  }
  constexpr int rows = 3, channels = 5;
  float x[rows * channels], y[2 * rows * channels];
  for (int i = 0; i < rows * channels; ++i) x[i] = 0.25f * (i - 7);
  int error = concat_elu(VFLOW_FLOAT32, x, y, rows, channels, 2);
  double worst = 0;
  for (int i = 0; i < 2 * rows * channels; ++i) {
    int row = i / (2 * channels), column = i % (2 * channels);
    double value = x[row * channels + column % channels] * (column < channels ? 1 : -1);
    worst = std::fmax(worst, std::fabs(y[i] - (value > 0 ? value : std::expm1(value))));
  }
  std::printf("ABI %d, kernels for %s, concat_elu of 2 threads to %.1e\n", version(), target(), worst);
  return error != VFLOW_OK || worst > 1e-6;
}
