// A conversation with a model in this process.
//
//   ChatSession session(clock, *loaded.backend, text, options);
//   Answer answer = TRY(session.ask("Hello", sink, stop_wanted));
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "text/text.h"

namespace conclave::apps {

struct ChatOptions {
  std::string system;                // empty: none
  std::optional<float> temperature;  // absent: what generation_config.json says, else 1
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<int> top_k;
  std::optional<float> repetition_penalty;
  std::optional<std::uint64_t> seed;  // absent: another one for each answer
  std::size_t max_tokens = 0;         // 0: up to the context
  std::vector<std::string> stops;     // end the answer; not shown
  std::size_t context_max = 0;
};

// Flag, else the model's recommendation, else the engine's default.
engine::SamplingParams sampling_of(const ChatOptions& options, const text::Json& recommended);

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;
};

struct Answer {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
  std::string finish_reason;  // "stop", "length", "tool_calls" or "cancelled"
  std::size_t prompt_tokens = 0;
  std::size_t completion_tokens = 0;  // the stop token included
  double ttft_s = 0.0;                // from the question to the first token
  double tokens_per_second = 0.0;     // after the first token; 0 for answers of one token
};
text::Json to_json(const Answer& answer);

// What happens while an answer grows.
struct AnswerSink {
  std::function<void(const text::OutputEvent&)> event;
  std::function<void(std::size_t done, std::size_t total)> prefill;  // before the first token
  std::function<bool()> stop_wanted;  // asked between steps; true ends the answer
};

class ChatSession {
 public:
  // All references must outlive the session.
  ChatSession(const Clock& clock, backend::Backend& backend, const text::TextModel& text,
              ChatOptions options);

  // Adds the question to the conversation and answers it. On an error, or when it is cancelled
  // before anything was answered, the conversation is as before. Errors: no chat template, the
  // conversation is longer than the context.
  Result<Answer> ask(std::string_view question, const AnswerSink& sink);

  void clear();  // forgets all but the system message
  const text::Json& messages() const { return messages_; }

  struct Totals {
    std::size_t answers = 0;
    std::size_t prompt_tokens = 0;
    std::size_t completion_tokens = 0;
    std::size_t context_used = 0;  // tokens of the last prompt and answer
    double generating_s = 0.0;
  };
  const Totals& totals() const { return totals_; }

 private:
  Result<Answer> generate(const std::vector<TokenId>& prompt, const AnswerSink& sink);
  engine::Request request_for(const std::vector<TokenId>& prompt);

  const Clock& clock_;
  const text::TextModel& text_;
  ChatOptions options_;
  engine::Engine engine_;
  text::Json messages_ = text::Json::array();
  std::uint64_t next_request_ = 1;
  Totals totals_;
};

}  // namespace conclave::apps
