#include "apps/probe_measure.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace conclave::apps {
namespace {

TEST(Probe, MeasuresEveryFormatAndLeavesNothingBehind) {
  const std::filesystem::path dir =
      std::filesystem::path(testing::TempDir()) / "conclave-probe-test";
  std::filesystem::create_directories(dir);
  const RealClock clock;
  const auto machine = probe_machine(
      clock, {.name = "here", .isa = "", .threads = 1, .memory_bytes = std::size_t{64} << 20}, dir);
  ASSERT_TRUE(machine) << machine.error().message;
  for (std::size_t i = 0; i < plan::kFormats; ++i) {
    EXPECT_GT(machine->gemv_bandwidth[i], 1e6);
    EXPECT_LE(machine->gemv_bandwidth[i], machine->peak_bandwidth);
  }
  EXPECT_GT(machine->prefill_flops, 1e6);
  EXPECT_GT(machine->dispatch_seconds, 0.0);
  EXPECT_GT(machine->memory_bytes, machine->usable_bytes);
  EXPECT_TRUE(std::filesystem::is_empty(dir));
  std::filesystem::remove_all(dir);

  // What is written is what the planner reads.
  const plan::CatalogueSource source{"probe.toml", plan::to_toml(*machine)};
  const auto catalogue = plan::parse_catalogue({&source, 1});
  ASSERT_TRUE(catalogue) << catalogue.error().message;
  EXPECT_NEAR(catalogue->machines[0].dispatch_seconds / machine->dispatch_seconds, 1.0, 1e-6);
}

TEST(Probe, AnUnknownInstructionSetIsAnError) {
  const RealClock clock;
  EXPECT_FALSE(
      probe_machine(clock, {.name = "here", .isa = "mmx"}, std::filesystem::temp_directory_path()));
}

}  // namespace
}  // namespace conclave::apps
