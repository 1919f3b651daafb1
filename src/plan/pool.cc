#include "plan/pool.h"

namespace conclave::plan {

std::string_view name_of(DeviceClass device) {
  constexpr std::string_view kNames[kDeviceClasses] = {"apple", "cuda", "rocm", "cpu"};
  return kNames[static_cast<std::size_t>(device)];
}

std::string_view name_of(Transport transport) {
  constexpr std::string_view kNames[kTransports] = {"tcp", "rdma", "nvlink", "shared-memory"};
  return kNames[static_cast<std::size_t>(transport)];
}

}  // namespace conclave::plan
