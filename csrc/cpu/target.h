// The best instruction set of this processor among those compiled in, and the choice of its kernels.
#pragma once

#include "arrays.h"

namespace vflow {

enum class Target { generic, x86_64_v2, x86_64_v3, x86_64_v4 };

Target best_target();

// Declares a function of every instruction set's namespace.
#define VFLOW_DECLARE_KERNELS(declaration) \
  namespace generic {                      \
  declaration;                             \
  }                                        \
  namespace x86_64_v2 {                    \
  declaration;                             \
  }                                        \
  namespace x86_64_v3 {                    \
  declaration;                             \
  }                                        \
  namespace x86_64_v4 {                    \
  declaration;                             \
  }

#if defined(VFLOW_HAS_x86_64_v2)
#define VFLOW_IF_V2(code) code
#else
#define VFLOW_IF_V2(code)
#endif
#if defined(VFLOW_HAS_x86_64_v3)
#define VFLOW_IF_V3(code) code
#else
#define VFLOW_IF_V3(code)
#endif
#if defined(VFLOW_HAS_x86_64_v4)
#define VFLOW_IF_V4(code) code
#else
#define VFLOW_IF_V4(code)
#endif

// The kernels of the best target: VFLOW_BEST_KERNELS(mixlogistic_kernels) is what that function of the
// target's namespace gives.
#define VFLOW_BEST_KERNELS(function)                                             \
  (VFLOW_IF_V4(best_target() == Target::x86_64_v4 ? x86_64_v4::function() :)     \
       VFLOW_IF_V3(best_target() == Target::x86_64_v3 ? x86_64_v3::function() :) \
           VFLOW_IF_V2(best_target() == Target::x86_64_v2 ? x86_64_v2::function() :) generic::function())

}  // namespace vflow
