// The best instruction set of this processor among those compiled in.
#pragma once

namespace vflow {

enum class Target { generic, x86_64_v3, x86_64_v4 };

Target best_target();

}  // namespace vflow
