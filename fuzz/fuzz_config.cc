// Any text as config.json: an error or a config whose rotary table is finite, never a crash.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/model.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = conclave::model::parse_config(text, "config.json");
  if (!config) return 0;
  for (const double frequency : conclave::model::rope_table(*config).inv_freq) {
    CHECK(std::isfinite(frequency));
  }
  return 0;
}
