#include "plan/pool.h"

#include <fmt/format.h>

namespace conclave::plan {

std::string_view name_of(DeviceClass device) {
  constexpr std::string_view kNames[kDeviceClasses] = {"apple", "cuda", "rocm", "cpu"};
  return kNames[static_cast<std::size_t>(device)];
}

std::string_view name_of(Transport transport) {
  constexpr std::string_view kNames[kTransports] = {"tcp", "rdma", "nvlink", "shared-memory"};
  return kNames[static_cast<std::size_t>(transport)];
}

std::string_view name_of(Strategy strategy) {
  constexpr std::string_view kNames[kStrategies] = {"slice", "slice-ra", "expert", "pipeline"};
  return kNames[static_cast<std::size_t>(strategy)];
}

Result<Strategy> parse_strategy(std::string_view text) {
  for (std::size_t i = 0; i < kStrategies; ++i) {
    if (text == name_of(static_cast<Strategy>(i))) return static_cast<Strategy>(i);
  }
  return invalid_input(
      fmt::format("unknown strategy '{}': slice, slice-ra, expert or pipeline", text));
}

}  // namespace conclave::plan
