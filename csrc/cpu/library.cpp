// What the library says about itself.
#include <stdlib.h>
#include <string.h>

#include "../common/errors.h"
#include "../vflow.h"

#include "target.h"

namespace vflow {

static bool runs(Target target) {
  switch (target) {
#if defined(VFLOW_HAS_x86_64_v2)
    case Target::x86_64_v2:
      return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") &&
             __builtin_cpu_supports("popcnt");
#endif
#if defined(VFLOW_HAS_x86_64_v3) || defined(VFLOW_HAS_x86_64_v4)
    case Target::x86_64_v3:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt");
#endif
#if defined(VFLOW_HAS_x86_64_v4)
    case Target::x86_64_v4:
      return runs(Target::x86_64_v3) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    default:
      return target == Target::generic;
  }
}

static const char* name_of(Target target) {
  switch (target) {
    case Target::x86_64_v4:
      return "x86-64-v4";
    case Target::x86_64_v3:
      return "x86-64-v3";
    case Target::x86_64_v2:
      return "x86-64-v2";
    default:
      return "generic";
  }
}

// The best first. Without the wish of the environment, or where it cannot be had, that is the choice.
constexpr Target kTargets[] = {
#if defined(VFLOW_HAS_x86_64_v4)
    Target::x86_64_v4,
#endif
#if defined(VFLOW_HAS_x86_64_v3)
    Target::x86_64_v3,
#endif
#if defined(VFLOW_HAS_x86_64_v2)
    Target::x86_64_v2,
#endif
    Target::generic};

static Target choose() {
#if defined(VFLOW_HAS_x86_64_v2) || defined(VFLOW_HAS_x86_64_v3) || defined(VFLOW_HAS_x86_64_v4)
  __builtin_cpu_init();
#endif
  const char* wish = getenv("VFLOW_CPU_TARGET");
  for (const Target target : kTargets)
    if (wish && strcmp(wish, name_of(target)) == 0 && runs(target)) return target;
  for (const Target target : kTargets)
    if (runs(target)) return target;
  return Target::generic;
}

Target best_target() {
  static const Target target = choose();
  return target;
}

}  // namespace vflow

int vflow_abi_version(void) { return VFLOW_ABI_VERSION; }

const char* vflow_cpu_target(void) { return vflow::name_of(vflow::best_target()); }

const char* vflow_error_message(int error) { return vflow::message_of(error); }
