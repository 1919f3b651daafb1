// Stands in for avx2/ and avx512/ where the target is not x86-64.
#include "kernels/isa_tables.h"

namespace conclave::kernels {

std::optional<Operations> avx2_operations(std::optional<bool> /*sequential*/) {
  return std::nullopt;
}
std::optional<Operations> avx512_operations(std::optional<bool> /*sequential*/) {
  return std::nullopt;
}

}  // namespace conclave::kernels
