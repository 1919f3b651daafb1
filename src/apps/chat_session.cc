#include "apps/chat_session.h"

#include <fmt/format.h>

#include <random>

namespace conclave::apps {
namespace {

using text::Json;
using text::OutputEvent;

std::optional<float> number(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<float>();
}

std::uint64_t fresh_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

// Shows the events of an answer and collects them into an Answer.
class Transcript {
 public:
  Transcript(text::AnswerParser parser, const AnswerSink& sink)
      : parser_(std::move(parser)), sink_(sink) {}

  void push(TokenId id) {
    for (const OutputEvent& event : parser_.push(id)) show(event);
  }
  void finish() {
    for (const OutputEvent& event : parser_.finish()) show(event);
  }
  bool stopped() const { return parser_.stopped(); }
  Answer& answer() { return answer_; }

 private:
  void show(const OutputEvent& event) {
    switch (event.kind) {
      case OutputEvent::Kind::kContent:
        answer_.content += event.text;
        break;
      case OutputEvent::Kind::kReasoning:
        answer_.reasoning += event.text;
        break;
      case OutputEvent::Kind::kToolBegin:
        answer_.tool_calls.push_back(
            {.id = event.tool_id, .name = event.tool_name, .arguments = {}});
        break;
      case OutputEvent::Kind::kToolArguments:
        if (!answer_.tool_calls.empty()) answer_.tool_calls.back().arguments += event.text;
        break;
      case OutputEvent::Kind::kToolEnd:
        break;
    }
    if (sink_.event) sink_.event(event);
  }

  text::AnswerParser parser_;
  const AnswerSink& sink_;
  Answer answer_;
};

std::string finish_name(engine::FinishReason finish, const Transcript& transcript,
                        const Answer& answer) {
  // A stop string may be met in the last token that was allowed, or in the one before Ctrl-C.
  if (!transcript.stopped()) {
    if (finish == engine::FinishReason::kLength) return "length";
    if (finish == engine::FinishReason::kCancelled) return "cancelled";
  }
  return answer.tool_calls.empty() ? "stop" : "tool_calls";
}

Json tool_calls_json(const std::vector<ToolCall>& calls) {
  Json array = Json::array();
  for (const ToolCall& call : calls) {
    Json object;
    object["id"] = call.id;
    object["type"] = "function";
    object["function"] = Json{{"name", call.name}, {"arguments", call.arguments}};
    array.push_back(std::move(object));
  }
  return array;
}

}  // namespace

engine::SamplingParams sampling_of(const ChatOptions& options, const Json& recommended) {
  engine::SamplingParams sampling;
  const auto choose = [&recommended](std::optional<float> flag, const char* key, float fallback) {
    return flag ? *flag : number(recommended, key).value_or(fallback);
  };
  sampling.temperature = choose(options.temperature, "temperature", sampling.temperature);
  sampling.top_p = choose(options.top_p, "top_p", sampling.top_p);
  sampling.min_p = choose(options.min_p, "min_p", sampling.min_p);
  sampling.repetition_penalty =
      choose(options.repetition_penalty, "repetition_penalty", sampling.repetition_penalty);
  const std::optional<float> top_k = number(recommended, "top_k");
  sampling.top_k = options.top_k.value_or(top_k ? static_cast<int>(*top_k) : sampling.top_k);
  return sampling;
}

Json to_json(const Answer& answer) {
  Json object;
  object["text"] = answer.content;
  object["reasoning"] = answer.reasoning;
  object["tool_calls"] = tool_calls_json(answer.tool_calls);
  object["finish_reason"] = answer.finish_reason;
  object["prompt_tokens"] = answer.prompt_tokens;
  object["completion_tokens"] = answer.completion_tokens;
  object["ttft_s"] = answer.ttft_s;
  object["tokens_per_second"] = answer.tokens_per_second;
  return object;
}

ChatSession::ChatSession(const Clock& clock, backend::Backend& backend, const text::TextModel& text,
                         ChatOptions options)
    : clock_(clock),
      text_(text),
      options_(std::move(options)),
      engine_(backend, &text,
              {.requests_max = 1,
               .chunk_tokens = backend.limits().rows_max,
               .context_max = options_.context_max}) {
  clear();
}

void ChatSession::clear() {
  messages_ = Json::array();
  if (!options_.system.empty()) {
    messages_.push_back(Json{{"role", "system"}, {"content", options_.system}});
  }
  totals_.context_used = 0;
}

Result<Answer> ChatSession::ask(std::string_view question, const AnswerSink& sink) {
  Json messages = messages_;
  messages.push_back(Json{{"role", "user"}, {"content", question}});
  text::ChatPrompt prompt;
  prompt.messages = messages;
  const std::vector<TokenId> ids = TRY(text_.render_chat(prompt));
  if (options_.context_max != 0 && ids.size() >= options_.context_max) {
    return exhausted(
        fmt::format("the conversation is {} tokens, the context is {}: ask less, or "
                    "begin anew with /clear",
                    ids.size(), options_.context_max));
  }
  Answer answer = TRY(generate(ids, sink));
  const bool empty =
      answer.content.empty() && answer.reasoning.empty() && answer.tool_calls.empty();
  if (empty && answer.finish_reason == "cancelled") return answer;

  Json reply{{"role", "assistant"}, {"content", answer.content}};
  if (!answer.reasoning.empty()) reply["reasoning_content"] = answer.reasoning;
  if (!answer.tool_calls.empty()) reply["tool_calls"] = tool_calls_json(answer.tool_calls);
  messages.push_back(std::move(reply));
  messages_ = std::move(messages);
  return answer;
}

engine::Request ChatSession::request_for(const std::vector<TokenId>& prompt) {
  engine::Request request;
  request.id = RequestId{next_request_++};
  request.prompt = prompt;
  request.sampling = sampling_of(options_, text_.generation_defaults());
  request.sampling.seed = options_.seed ? *options_.seed : fresh_seed();
  request.max_tokens = options_.max_tokens;
  request.stop_ids = text_.stop_ids();
  request.banned_ids = text_.banned_ids();
  // No tools are offered here.
  const std::vector<TokenId> calls = text_.call_begin_ids();
  request.banned_ids.insert(request.banned_ids.end(), calls.begin(), calls.end());
  return request;
}

Result<Answer> ChatSession::generate(const std::vector<TokenId>& prompt, const AnswerSink& sink) {
  const Time start = clock_.now();
  Time first = start;
  Transcript transcript({text_.output_parser(prompt), options_.stops}, sink);
  Answer& answer = transcript.answer();
  answer.prompt_tokens = prompt.size();
  engine::Request request = request_for(prompt);
  const RequestId id = request.id;
  TRY(engine_.admit(std::move(request)));

  engine::FinishReason finish = engine::FinishReason::kNone;
  while (!engine_.idle()) {
    if (transcript.stopped() || (sink.stop_wanted && sink.stop_wanted())) {
      engine_.cancel(id);
      finish = engine::FinishReason::kCancelled;
      break;
    }
    // After the first token the line would be drawn over the answer.
    if (answer.completion_tokens == 0 && sink.prefill) {
      const auto progress = engine_.prefill_progress(id);
      if (progress) sink.prefill(progress->first, progress->second);
    }
    const std::vector<engine::TokenEvent> events = TRY(engine_.step());
    for (const engine::TokenEvent& event : events) {
      if (event.request != id) continue;  // the end of an earlier, cancelled one
      if (event.finish == engine::FinishReason::kError) return unavailable(event.error);
      finish = event.finish;
      if (!event.token) continue;
      if (answer.completion_tokens++ == 0) first = clock_.now();
      if (finish != engine::FinishReason::kStop) transcript.push(*event.token);
    }
  }
  const Time end = clock_.now();
  transcript.finish();

  answer.finish_reason = finish_name(finish, transcript, answer);
  answer.ttft_s = seconds(first - start);
  if (answer.completion_tokens > 1 && end > first) {
    answer.tokens_per_second =
        static_cast<double>(answer.completion_tokens - 1) / seconds(end - first);
  }
  ++totals_.answers;
  totals_.prompt_tokens += answer.prompt_tokens;
  totals_.completion_tokens += answer.completion_tokens;
  totals_.context_used = answer.prompt_tokens + answer.completion_tokens;
  totals_.generating_s += seconds(end - first);
  return std::move(answer);
}

}  // namespace conclave::apps
