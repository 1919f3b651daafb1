// Any text as a catalogue and as a cluster file: an error of one line, or values that pass the
// planner's checks and that it plans without a crash.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "plan/plan.h"

namespace {

using namespace conclave;

const plan::Catalogue& built_in() {
  static const plan::Catalogue catalogue = [] {
    auto parsed = plan::parse_catalogue(plan::built_in_sources());
    CHECK(parsed);
    return std::move(parsed).value();
  }();
  return catalogue;
}

void check_error(const Error& error) {
  CHECK(!error.message.empty());
  CHECK(error.message.find('\n') == std::string::npos);
}

void read_catalogue(std::string_view text) {
  const plan::CatalogueSource source{"machines.toml", std::string(text)};
  const auto catalogue = plan::parse_catalogue(std::span(&source, 1));
  if (!catalogue) return check_error(catalogue.error());
  for (const plan::Machine& machine : catalogue->machines) {
    const plan::CatalogueSource written{"written.toml", plan::to_toml(machine)};
    const auto again = plan::parse_catalogue(std::span(&written, 1));
    CHECK(again);
    CHECK(again->machines.size() == 1 && again->machines[0].name == machine.name);
  }
}

void read_cluster(std::string_view text) {
  const auto cluster = plan::parse_cluster(text, "cluster.toml", built_in());
  if (!cluster) return check_error(cluster.error());
  CHECK(plan::check(*cluster));
  constexpr std::size_t kPlannedMax = 8;  // more machines only make the fuzzer slower
  if (cluster->pool.machines.size() > kPlannedMax) return;
  const auto best = plan::make_plan(*cluster);
  if (!best) return check_error(best.error());
  CHECK(std::isfinite(best->prediction.tokens_per_second));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read_catalogue(text);
  read_cluster(text);
  return 0;
}
