// Stands in for neon/ where the target is not 64-bit Arm.
#include "kernels/isa_tables.h"

namespace conclave::kernels {

std::optional<Operations> neon_operations() { return std::nullopt; }

}  // namespace conclave::kernels
