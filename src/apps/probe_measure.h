// What `conclave probe` measures: this machine's own kernels, as an entry that the planner reads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "plan/plan.h"

namespace conclave::apps {

struct ProbeRequest {
  std::string name;  // of the machine entry
  std::string isa;   // empty: the fastest
  std::size_t threads = 1;
  double busy = 1.0;                                  // as in backend::CpuOptions
  std::size_t memory_bytes = std::size_t{512} << 20;  // read by the kernels in turn
};

// About half a second. `temporary_dir`: where three tiny checkpoints are written and removed again.
Result<plan::Machine> probe_machine(const Clock& clock, const ProbeRequest& request,
                                    const std::filesystem::path& temporary_dir);

// Bytes of the last-level cache, 0 when the system does not say.
std::size_t last_level_cache_bytes();

}  // namespace conclave::apps
