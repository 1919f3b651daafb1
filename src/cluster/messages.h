// Between the engine's types and worker.proto. What comes from the other process is checked.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "engine/engine.h"
#include "wire/wire.h"

namespace conclave::cluster {

// `generated` becomes the message's log.
wire::pb::Admit to_message(const engine::Request& request, std::uint32_t attempt);
// kCorrupt: an unknown grammar kind or a number outside its type.
Result<engine::Request> from_message(const wire::pb::Admit& admit);

wire::pb::Token to_message(const engine::TokenEvent& event, std::uint32_t attempt);
wire::pb::Token failure_message(RequestId request, std::uint32_t attempt, std::size_t index,
                                const Error& error);
// kCorrupt: an unknown finish reason. The error code of kError is read by failure_of().
Result<engine::TokenEvent> from_message(const wire::pb::Token& token);
Error failure_of(const wire::pb::Token& token);

wire::pb::Stats to_message(const engine::EngineStats& stats);
engine::EngineStats from_message(const wire::pb::Stats& stats);

}  // namespace conclave::cluster
