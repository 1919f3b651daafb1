// Machines and endpoints between the planner's and the transport's types and cluster.proto.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "plan/plan.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace conclave::cluster {

wire::pb::MachineFacts to_message(const plan::Machine& machine);
// Numbers that no machine has become ones that the planner takes: a node cannot break the placing.
plan::Machine machine_from(const wire::pb::MachineFacts& facts);

wire::pb::Endpoint to_message(const transport::Endpoint& endpoint);
// kCorrupt: a port or a fingerprint that is none.
Result<transport::Endpoint> from_message(const wire::pb::Endpoint& endpoint);

// What a member says: it proved its key, not that it means well. kCorrupt: a port, a key, an id or
// a count that is none.
Result<void> check(const wire::pb::Hello& hello);
Result<void> clean(wire::pb::Report& report);  // its texts too
// ASCII without control characters, as it may stand in logs and before people's eyes.
inline constexpr std::size_t kCleanTextMax = 400;
std::string clean_text(const std::string& text);

// Names what bits a build computes: ranks of one placement have equal ids. Raised by hand when a
// kernel, the order of sums or the wire changes what comes out.
inline constexpr std::uint64_t kNumericsId = 3;

}  // namespace conclave::cluster
