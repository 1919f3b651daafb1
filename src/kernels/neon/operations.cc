#include <sys/auxv.h>

#include "kernels/isa_tables.h"
#include "kernels/lanes.h"
#include "kernels/neon/lanes.h"

namespace conclave::kernels {

std::optional<Operations> neon_operations() {
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP of the Linux arm64 ABI
  if ((::getauxval(AT_HWCAP) & kDotProduct) == 0) return std::nullopt;
  return make_operations<NeonLanes>();
}

}  // namespace conclave::kernels
