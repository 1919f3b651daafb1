// What `conclave plan` is asked: its flags, and the small languages inside some of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "plan/plan.h"

namespace conclave::apps {

// Empty texts and absent numbers: as the cluster file says, else a default that the report names.
struct PlanOptions {
  std::string cluster;   // a TOML file
  std::string machines;  // "m3-ultra-512*4,m4-max-128", in place of a file
  std::string link;
  std::string topology;
  std::string model;  // a name of the catalogue, or a checkpoint folder
  std::string quant;
  std::string weights = "native";  // of a checkpoint folder
  bool weights_given = false;
  std::string software;
  std::string strategy;
  std::optional<std::size_t> batch;
  std::optional<std::size_t> context;
  std::optional<std::size_t> prompt;
  std::optional<std::size_t> reserve;
  std::string speculation;  // "3:2.35"
  std::optional<double> zipf;
  std::optional<double> measured;  // tokens per second
  std::string catalogue;           // a folder of TOML files
  // At most one of these; none: one report.
  bool list = false;
  bool seed_table = false;
  std::vector<std::string> compare;
  std::string sweep;
  std::vector<std::string> what_if;

  bool events = false;
  std::uint64_t seed = 1;
  bool json = false;
  std::string svg;  // a file
};

// Of `--batch` and `--context`, and of the ranges and changes of them.
inline constexpr std::size_t kBatchMax = 1'000'000;
inline constexpr std::size_t kContextMax = std::size_t{1} << 24;

// One kind of machine of `--machines`.
struct MachineCount {
  std::string name;
  std::size_t count = 1;
};
// "m3-ultra-512*4, m4-max-128", blanks or none. At most plan::kMachinesMax machines.
Result<std::vector<MachineCount>> parse_machine_list(std::string_view text);

Result<plan::Topology> parse_topology(std::string_view text);
std::string_view topology_name(plan::Topology topology);  // "switch"

// "3:2.35": three draft tokens, 2.35 tokens a step on average.
Result<plan::Speculation> parse_speculation(std::string_view text);

enum class SweepKey : std::uint8_t { kNodes, kBatch, kContext };
std::string_view name_of(SweepKey key);  // "nodes"
struct Sweep {
  SweepKey key = SweepKey::kNodes;
  std::vector<std::size_t> values;  // ascending, at most kSweepPointsMax
};
inline constexpr std::size_t kSweepPointsMax = 64;
// "nodes=1..8", "batch=1,8,32". Ranges of more than 16 numbers double from the first to the last.
// No value above plan::kMachinesMax, kBatchMax or kContextMax.
Result<Sweep> parse_sweep(std::string_view text);

// A number given as it is, or relative to what it was.
struct Amount {
  std::optional<double> value;  // seconds, or bytes per second
  double factor = 1.0;
  double applied_to(double before) const { return value ? *value : before * factor; }
};

enum class ChangeKey : std::uint8_t {
  kLink,
  kSoftware,
  kQuant,
  kStrategy,
  kNodes,
  kBatch,
  kContext,
  kBandwidth,      // of the machines' memory
  kLinkBandwidth,  // of every link
  kLatency,        // of every link
};
struct Change {
  ChangeKey key = ChangeKey::kLink;
  std::string text;       // "link=tb5-rdma", as given
  std::string value;      // "tb5-rdma"
  std::size_t count = 0;  // kNodes, kBatch, kContext: as in a sweep
  Amount amount;          // kBandwidth, kLinkBandwidth, kLatency
};
// "link=tb5-rdma", "nodes=6", "bandwidth=+20%", "latency=12us".
Result<Change> parse_change(std::string_view text);

// Flags that contradict each other: nullopt, or what is wrong.
std::optional<Error> contradiction(const PlanOptions& options);

}  // namespace conclave::apps
