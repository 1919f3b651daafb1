#include "kernels/avx2/lanes.h"
#include "kernels/isa_tables.h"
#include "kernels/lanes.h"

namespace conclave::kernels {

std::optional<Operations> avx2_operations(std::optional<bool> sequential) {
  // Every processor with AVX2 has F16C, which clang 14 cannot be asked about.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return std::nullopt;
  }
  Operations operations = make_operations<Avx2Lanes>();
  if (sequential.value_or(__builtin_cpu_is("amd") != 0)) {
    operations.gemm = gemm<Sequential<Avx2Lanes>, false>;
  }
  return operations;
}

}  // namespace conclave::kernels
