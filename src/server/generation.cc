#include "server/generation.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"

namespace conclave::server {
namespace {

constexpr std::size_t kCheckedGrammarsMax = 8;

bool contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Of what has text.
AnswerEvent::Kind kind_of(text::OutputEvent::Kind kind) {
  if (kind == text::OutputEvent::Kind::kContent) return AnswerEvent::Kind::kText;
  return kind == text::OutputEvent::Kind::kReasoning ? AnswerEvent::Kind::kReasoning
                                                     : AnswerEvent::Kind::kToolArguments;
}

}  // namespace

// --- one choice -------------------------------------------------------------------------------

Choice::Choice(const text::TextModel& text, text::OutputParser parser, Options options)
    : text_(text), answer_(std::move(parser), options.stop), options_(std::move(options)) {}

std::vector<AnswerEvent> Choice::push(const engine::TokenEvent& token) {
  CHECK(!ended_);
  std::vector<AnswerEvent> events;
  const bool is_stop = token.token && contains(options_.stop_ids, *token.token);
  if (token.token) ++n_tokens_;
  if (token.token && !is_stop) {
    note_logprob(token);
    if (!take(events, answer_.push(*token.token))) return events;
    if (answer_.in_reasoning()) ++n_reasoning_tokens_;
  }
  if (token.finish == engine::FinishReason::kNone) return events;

  if (!take(events, answer_.finish())) return events;
  const bool stopped = token.finish == engine::FinishReason::kStop;
  end(events, stopped ? AnswerEnd::kStop : AnswerEnd::kLength);
  return events;
}

bool Choice::take(std::vector<AnswerEvent>& events, std::vector<text::OutputEvent> outputs) {
  using Kind = text::OutputEvent::Kind;
  for (text::OutputEvent& output : outputs) {
    if (output.kind == Kind::kToolBegin) {
      begin_call(events, std::move(output));
    } else if (output.kind != Kind::kToolEnd) {
      add_text(events, kind_of(output.kind), std::move(output.text), output.tool_index);
    } else if (options_.one_call) {
      end(events, AnswerEnd::kToolCalls);
      return false;
    }
  }
  if (!answer_.stopped()) return true;
  logprobs_.clear();  // of text that is never shown
  end(events, AnswerEnd::kStop);
  return false;
}

void Choice::begin_call(std::vector<AnswerEvent>& events, text::OutputEvent output) {
  AnswerEvent begin;
  begin.kind = AnswerEvent::Kind::kToolBegin;
  begin.choice = options_.index;
  begin.tool_index = output.tool_index;
  begin.tool_id = std::move(output.tool_id);
  begin.tool_name = std::move(output.tool_name);
  begin.logprobs = take_logprobs(/*all=*/true);
  events.push_back(std::move(begin));
}

void Choice::add_text(std::vector<AnswerEvent>& events, AnswerEvent::Kind kind, std::string text,
                      int tool_index) {
  if (text.empty()) return;
  AnswerEvent event;
  event.kind = kind;
  event.choice = options_.index;
  event.text = std::move(text);
  event.tool_index = tool_index;
  if (kind == AnswerEvent::Kind::kText) n_shown_ += event.text.size();
  event.logprobs = take_logprobs(/*all=*/kind != AnswerEvent::Kind::kText);
  events.push_back(std::move(event));
}

void Choice::end(std::vector<AnswerEvent>& events, AnswerEnd reason) {
  ended_ = true;
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kEnd;
  event.choice = options_.index;
  // A client that sees calls has to run them, however the answer went on; an answer cut off keeps
  // saying so, because its last call may be half a call.
  const bool calls = reason == AnswerEnd::kStop && answer_.tool_calls() > 0;
  event.end = calls ? AnswerEnd::kToolCalls : reason;
  event.logprobs = take_logprobs(/*all=*/true);
  events.push_back(std::move(event));
}

void Choice::note_logprob(const engine::TokenEvent& token) {
  if (!options_.logprobs) return;
  LogprobEntry entry;
  entry.token = {.bytes = std::string(text_.token_bytes(*token.token)), .logprob = token.logprob};
  for (const engine::TokenLogprob& top : token.top) {
    entry.top.push_back({.bytes = std::string(text_.token_bytes(top.id)), .logprob = top.logprob});
  }
  logprobs_.push_back({.entry = std::move(entry), .start = answer_.content_bytes()});
}

std::vector<LogprobEntry> Choice::take_logprobs(bool all) {
  const auto end =
      all ? logprobs_.end()
          : std::find_if(logprobs_.begin(), logprobs_.end(),
                         [this](const HeldLogprob& held) { return held.start >= n_shown_; });
  std::vector<LogprobEntry> taken;
  for (auto held = logprobs_.begin(); held != end; ++held) taken.push_back(std::move(held->entry));
  logprobs_.erase(logprobs_.begin(), end);
  return taken;
}

// --- the request ------------------------------------------------------------------------------

bool Generation::ended() const {
  return std::all_of(choices.begin(), choices.end(),
                     [](const Choice& choice) { return choice.ended(); });
}

Usage Generation::usage() const {
  Usage usage{.prompt_tokens = prompt.size()};
  for (const Choice& choice : choices) {
    usage.completion_tokens += choice.tokens();
    usage.reasoning_tokens += choice.reasoning_tokens();
  }
  return usage;
}

bool CheckedGrammars::contains(const text::GrammarSpec& spec) const {
  return std::any_of(specs_.begin(), specs_.end(), [&spec](const text::GrammarSpec& checked) {
    return checked.kind == spec.kind && checked.source == spec.source;
  });
}

void CheckedGrammars::add(const text::GrammarSpec& spec) {
  if (specs_.size() == kCheckedGrammarsMax) specs_.pop_front();
  specs_.push_back(spec);
}

namespace {

ApiError context_error(std::size_t n_prompt, std::size_t context_max) {
  return {.message = "the prompt has " + std::to_string(n_prompt) +
                     " tokens; this model's maximum context length is " +
                     std::to_string(context_max) + " tokens, prompt and answer together",
          .param = "messages",
          .code = "context_length_exceeded"};
}

// No vocabulary has a token of more bytes (the longest are runs of 128 spaces or dashes), so text
// of context_max times as many bytes cannot fit.
constexpr std::size_t kTokenBytesMax = 256;

// Bytes of all strings in `json`, names included: tools reach the prompt with theirs.
std::size_t text_bytes(const Json& json) {
  if (json.is_string()) return json.get_ref<const std::string&>().size();
  std::size_t bytes = 0;
  if (json.is_object()) {
    for (const auto& [name, value] : json.items()) bytes += name.size() + text_bytes(value);
  } else if (json.is_array()) {
    for (const Json& value : json) bytes += text_bytes(value);
  }
  return bytes;
}

// Rendering and encoding take seconds for tens of megabytes, and the requests behind wait
// meanwhile: what cannot fit is refused before.
std::optional<ApiError> check_size(const text::ChatPrompt& prompt, std::size_t context_max) {
  const std::size_t bytes = text_bytes(prompt.messages) + text_bytes(prompt.tools);
  if (bytes / kTokenBytesMax < context_max) return std::nullopt;
  return ApiError{.message = "messages and tools have " + std::to_string(bytes) +
                             " bytes of text; this model's maximum context length is " +
                             std::to_string(context_max) + " tokens, which hold at most " +
                             std::to_string(context_max * kTokenBytesMax) + " bytes",
                  .param = "messages",
                  .code = "context_length_exceeded"};
}

Parsed<std::optional<text::GrammarSpec>> choose_grammar(const text::TextModel& text,
                                                        const GenerateRequest& request) {
  if (request.format && text.answers_in_channels()) {
    return field_error(request.format_field,
                       "answers of this model have channels, which no such "
                       "format describes: leave it out");
  }
  if (!request.tool_required) return request.format;
  auto grammar =
      text.tool_call_grammar(request.prompt.tools, request.tool_name, request.parallel_tool_calls);
  if (!grammar) {
    return field_error("tool_choice", "this model's calls cannot be forced: use \"auto\"");
  }
  return grammar;
}

engine::Request base_request(const text::TextModel& text, const GenerateRequest& request,
                             bool constrained) {
  engine::Request out;
  out.sampling = request.sampling;
  out.stop_ids = text.stop_ids();
  out.banned_ids = text.banned_ids();
  if (request.prompt.tools.is_null()) {
    const std::vector<TokenId> calls = text.call_begin_ids();
    out.banned_ids.insert(out.banned_ids.end(), calls.begin(), calls.end());
  }
  if (request.ignore_eos && !constrained) {
    // Under a grammar the stop token may be the only one that is left.
    out.banned_ids.insert(out.banned_ids.end(), out.stop_ids.begin(), out.stop_ids.end());
    out.stop_ids.clear();
  }
  return out;
}

}  // namespace

Parsed<Generation> start_generation(const text::TextModel& text, const GenerateRequest& request,
                                    std::size_t context_max, std::uint64_t seed,
                                    CheckedGrammars& checked) {
  if (auto error = check_size(request.prompt, context_max)) return *error;
  auto prompt = text.render_chat(request.prompt);
  if (!prompt) {
    ApiError error = api_error(prompt.error());
    error.param = "messages";
    return error;
  }
  Generation generation;
  generation.prompt = std::move(prompt).value();
  const std::size_t n_prompt = generation.prompt.size();
  if (n_prompt == 0) return field_error("messages", "the prompt is empty");
  if (n_prompt >= context_max) return context_error(n_prompt, context_max);

  auto grammar = choose_grammar(text, request);
  if (!grammar) return grammar.error();
  if (grammar.value() && !checked.contains(*grammar.value())) {
    const auto compiled = text.grammar(*grammar.value(), generation.prompt);
    if (!compiled) {
      ApiError error = api_error(compiled.error());
      error.param = request.tool_required ? "tools" : request.format_field;
      return error;
    }
    checked.add(*grammar.value());
  }

  engine::Request base = base_request(text, request, grammar.value().has_value());
  base.grammar = std::move(grammar.value());
  base.prompt = generation.prompt;
  base.sampling.seed = request.seed.value_or(seed);
  // Clients ask for 32,000 tokens of any model: more than fits is "as much as fits".
  base.max_tokens = std::min(request.max_tokens.value_or(context_max), context_max - n_prompt);
  for (std::size_t i = 0; i < request.n; ++i) {
    base.sampling.choice = static_cast<std::uint32_t>(i);
    generation.choices.emplace_back(text,
                                    text.output_parser(generation.prompt, request.prompt.tools),
                                    Choice::Options{.index = i,
                                                    .stop = request.stop,
                                                    .stop_ids = base.stop_ids,
                                                    .logprobs = request.sampling.top_logprobs >= 0,
                                                    .one_call = !request.parallel_tool_calls});
    generation.requests.push_back(base);
  }
  return generation;
}

}  // namespace conclave::server
