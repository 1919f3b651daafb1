// A rank's trace on its way to whoever asked. engine/trace.h says what it is.
#pragma once

#include <cstddef>
#include <vector>

#include "collective/collective.h"
#include "engine/engine.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace conclave::cluster {

inline constexpr std::size_t kTraceStepsMax = 512;  // in one answer

// The last steps of `trace`, at most `steps_max` of them; the caller adds what names the rank.
wire::pb::Trace to_message(const engine::StepTrace& trace, std::size_t steps_max);
void add_links(const transport::Transport& transport, wire::pb::Trace& out);
void add_exchanges(const collective::GroupStats& stats, wire::pb::Trace& out);

// For GET /conclave/v1/trace: one object for each rank, with means over its decode steps.
std::string trace_json(const std::vector<wire::pb::Trace>& traces);

}  // namespace conclave::cluster
