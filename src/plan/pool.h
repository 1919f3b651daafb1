// Machines, the links between them, and what a program costs on top. docs/perf-model.md 1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "plan/shape.h"

namespace conclave::plan {

enum class DeviceClass : std::uint8_t { kApple, kCuda, kRocm, kCpu };
inline constexpr std::size_t kDeviceClasses = 4;
std::string_view name_of(DeviceClass device);  // "apple"

// One rank's hardware: a desktop machine, or one GPU of a server.
struct Machine {
  std::string name;   // unique in a cluster: "m3-ultra-512-2"
  std::string title;  // "Mac Studio M3 Ultra, 512 GB"
  DeviceClass device = DeviceClass::kCpu;
  double memory_bytes = 0.0;
  double usable_bytes = 0.0;    // what weights, KV and backups may take
  double peak_bandwidth = 0.0;  // bytes per second
  double efficiency = 0.8;      // of the peak that batch-1 GEMV reaches
  double prefill_flops = 0.0;   // useful FLOP per second in prefill of a MoE model
  double cache_bytes = 0.0;     // last-level cache that weights can stay in; 0: none
  double idle_watts = 0.0;
  double load_watts = 0.0;
  double price_usd = 0.0;
  // Probed by `conclave probe`; 0: not probed, the table's values are used.
  std::array<double, kFormats> gemv_bandwidth{};        // weights in memory
  std::array<double, kFormats> cache_gemv_bandwidth{};  // weights in the cache
  double dispatch_seconds = 0.0;                        // per layer, besides reading weights
  double expert_seconds = 0.0;                          // and per expert that a token takes there
  double step_seconds = 0.0;                            // per step: sampling, bookkeeping
  // Relative standard deviation of a few milliseconds of work: ranks wait for the slowest.
  double unsteadiness = 0.0;
};

enum class Transport : std::uint8_t { kTcp, kRdma, kNvlink, kSharedMemory };
inline constexpr std::size_t kTransports = 4;
std::string_view name_of(Transport transport);  // "tcp"

struct Link {
  std::string name;  // "tb5-rdma"
  std::string title;
  Transport transport = Transport::kTcp;
  double latency_seconds = 0.0;  // one way, a small message, without the software above
  double jitter_seconds = 0.0;   // mean of an exponential on top, per message
  double bandwidth = 0.0;        // payload bytes per second, each way, one cable
};

// How messages to several peers share cables.
enum class Topology : std::uint8_t {
  kSwitch,  // one cable per machine: messages to N-1 peers leave one after the other
  kMesh,    // a cable per pair: they leave together
  kRing,    // cables to two neighbours; others are reached in hops
};

struct PairLink {
  std::size_t a = 0;  // indices into Pool::machines
  std::size_t b = 0;
  Link link;
};

struct Pool {
  std::vector<Machine> machines;  // [0] is the head
  std::optional<Link> link;  // between all pairs that `pairs` does not name; absent: only those
  std::vector<PairLink> pairs;
  Topology topology = Topology::kSwitch;
};
// Errors name the machine and the value: negative, zero or not finite; unusable memory; two
// machines of one name; a pair that does not exist; machines that no chain of links joins.
Result<void> check(const Pool& pool);

enum class Collective : std::uint8_t { kOneShot, kRing };

// What a program costs on top of hardware. docs/perf-model.md 1.2 and 3.4.
struct ExchangeCost {
  Collective collective = Collective::kOneShot;
  double overhead_seconds = 0.0;  // per exchange (one-shot) or per step (ring)
  double per_peer_seconds = 0.0;  // per exchange and peer
};
enum class Strategy : std::uint8_t { kSlice, kSliceRa, kExpert, kPipeline };
inline constexpr std::size_t kStrategies = 4;
std::string_view name_of(Strategy strategy);  // "slice-ra"
Result<Strategy> parse_strategy(std::string_view text);

struct Software {
  std::string name;  // "conclave"
  std::string title;
  // Seconds per layer that no bandwidth explains: kernel launches, barriers.
  std::array<std::array<double, 2>, kDeviceClasses> dispatch_seconds{};  // [device][attention kind]
  std::array<double, kDeviceClasses> efficiency{1.0, 1.0, 1.0, 1.0};     // times the machine's
  std::array<double, kDeviceClasses> prefill_efficiency{1.0, 1.0, 1.0, 1.0};  // the same
  std::array<ExchangeCost, kTransports> exchange{};
  double hop_seconds = 0.0;  // per pipeline hop, besides the link
  std::array<bool, kStrategies> strategies{true, true, true, true};
  double wire_bytes_per_element = 4.0;
  double int4_extra_bytes = 0.0;   // per INT4 parameter shipped with scales alone: their biases
  bool splits_head = true;         // by vocabulary; else every rank reads all of it
  bool equal_shares = false;       // cannot give unequal shares; heads must divide evenly
  bool uses_all_machines = false;  // has no planner that leaves machines out
  bool overlaps_prefill = true;    // exchanges run behind the next chunk's work
  bool backups = false;            // keeps copies of slices, so that a loss is survived
  bool whole_kv = false;           // see Architecture
};

}  // namespace conclave::plan
