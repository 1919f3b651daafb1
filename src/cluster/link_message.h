// Measurements and checks between their types and cluster.proto.
#pragma once

#include "cluster/link_table.h"
#include "cluster/local_checks.h"
#include "wire/wire.h"

namespace conclave::cluster {

inline constexpr std::size_t kFoundTextMax = 256;  // characters of a text in these messages

wire::pb::LinkReport to_message(const LinkMeasurement& found);
// Never fails: numbers that no link has become 0, texts are cut and printable.
LinkMeasurement from_message(const wire::pb::LinkReport& message);

wire::pb::MachineChecks to_message(const MachineChecks& checks);
MachineChecks from_message(const wire::pb::MachineChecks& message);

}  // namespace conclave::cluster
