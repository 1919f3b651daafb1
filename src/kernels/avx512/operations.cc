#include "kernels/avx512/lanes.h"
#include "kernels/isa_tables.h"
#include "kernels/lanes.h"

namespace conclave::kernels {

std::optional<Operations> avx512_operations(std::optional<bool> sequential) {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vnni")) {
    return std::nullopt;
  }
  Operations operations = make_operations<Avx512Lanes>();
  if (sequential.value_or(__builtin_cpu_is("amd") != 0)) {
    operations.gemm = gemm<Sequential<Avx512Lanes>, false>;
  }
  return operations;
}

}  // namespace conclave::kernels
