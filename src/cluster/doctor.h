// What is wrong with a pool's machines and links, and what to do about it. Pure functions: nothing
// is measured or changed here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cluster/layout.h"
#include "cluster/link_table.h"
#include "cluster/local_checks.h"

namespace conclave::cluster {

struct CheckedMachine {
  NodeId node;
  std::string name{};
  std::string address{};  // where others call it, for people
  std::string build{};
  std::string host_id{};          // equal: agents of one machine
  std::string absent{};           // "gone", "silent"; empty: it is there
  std::uint64_t lends_bytes = 0;  // 0: unknown
  std::uint64_t held_bytes = 0;   // of these, in use by the pool
  std::optional<MachineChecks> checks{};
};

struct Finding {
  bool wrong = false;    // else advice: it works, and could be better
  std::string text{};    // "node-a cannot call node-b at 10.0.0.2:7000: does not answer in time"
  std::string advice{};  // what to do
  bool operator==(const Finding&) const = default;
};

// What is wrong comes first. Machines that are absent have no links.
std::vector<Finding> diagnose(std::span<const CheckedMachine> machines, const LinkTable& links);

// Machines, links and findings for `conclave doctor`, JSON.
std::string doctor_json(std::span<const CheckedMachine> machines, const LinkTable& links,
                        std::span<const Finding> findings, Time now);

}  // namespace conclave::cluster
