#include "kernels/avx2/lanes.h"
#include "kernels/isa_tables.h"
#include "kernels/lanes.h"

namespace conclave::kernels {

std::optional<Operations> avx2_operations() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c")) {
    return std::nullopt;
  }
  return make_operations<Avx2Lanes>();
}

}  // namespace conclave::kernels
