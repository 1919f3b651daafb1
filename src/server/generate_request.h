// The one internal request that every dialect is turned into, and the events of its answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "text/text.h"

namespace conclave::server {

struct GenerateRequest {
  text::ChatPrompt prompt;  // `tools` as the model shall see them: null with tool choice none
  std::string model;        // as asked for; any name is answered by the model that runs

  std::size_t n = 1;                      // choices
  std::optional<std::size_t> max_tokens;  // of each choice; absent: up to the context
  std::vector<std::string> stop;          // of the content; never shown
  bool ignore_eos = false;                // go on to max_tokens
  engine::SamplingParams sampling;        // `choice` is filled per choice
  std::optional<std::uint64_t> seed;      // absent: drawn

  bool tool_required = false;       // the answer must be a call ...
  std::string tool_name;            // ... of this function; empty: of any
  bool parallel_tool_calls = true;  // false: the answer ends after the first call
  std::optional<text::GrammarSpec> format;
  std::string format_field = "response_format";  // where `format` came from, for errors

  bool stream = false;
  bool include_usage = false;  // in the stream
};

enum class AnswerEnd : std::uint8_t { kStop, kLength, kToolCalls };

struct TokenText {
  std::string bytes;  // may be part of a code point
  float logprob = 0.0f;
};
struct LogprobEntry {
  TokenText token;
  std::vector<TokenText> top;  // best first
};

// One piece of one choice's answer, in whole code points.
struct AnswerEvent {
  enum class Kind : std::uint8_t {
    kReasoning,      // text
    kText,           // text
    kToolBegin,      // tool_index, tool_id, tool_name
    kToolArguments,  // tool_index, text
    kEnd,            // end; the last event of a choice
  };
  Kind kind = Kind::kText;
  std::size_t choice = 0;
  std::string text;
  int tool_index = 0;
  std::string tool_id;
  std::string tool_name;
  AnswerEnd end = AnswerEnd::kStop;
  std::vector<LogprobEntry> logprobs;  // of the tokens that this event is the first to show
};

struct Usage {
  std::size_t prompt_tokens = 0;
  std::size_t completion_tokens = 0;  // of all choices, stop tokens included
  std::size_t reasoning_tokens = 0;   // of these, inside reasoning
};

}  // namespace conclave::server
