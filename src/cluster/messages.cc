#include "cluster/messages.h"

#include <utility>

namespace conclave::cluster {
namespace {

constexpr auto kLastFinish = static_cast<std::uint32_t>(engine::FinishReason::kError);
constexpr auto kLastGrammar = static_cast<std::uint32_t>(text::GrammarSpec::Kind::kLark);
constexpr auto kLastErrorCode = static_cast<std::uint32_t>(ErrorCode::kUnsupported);

template <class Repeated>
std::vector<TokenId> token_ids(const Repeated& values) {
  std::vector<TokenId> ids;
  ids.reserve(static_cast<std::size_t>(values.size()));
  for (const std::uint32_t value : values) ids.push_back(TokenId{value});
  return ids;
}

template <class Repeated>
void add_ids(const std::vector<TokenId>& ids, Repeated* out) {
  out->Reserve(static_cast<int>(ids.size()));
  for (const TokenId id : ids) out->Add(id.value);
}

void fill_sampling(const engine::SamplingParams& sampling, wire::pb::Sampling* out) {
  out->set_temperature(sampling.temperature);
  out->set_top_k(sampling.top_k);
  out->set_top_p(sampling.top_p);
  out->set_min_p(sampling.min_p);
  out->set_repetition_penalty(sampling.repetition_penalty);
  out->set_presence_penalty(sampling.presence_penalty);
  out->set_frequency_penalty(sampling.frequency_penalty);
  for (const auto& [id, bias] : sampling.logit_bias) {
    wire::pb::Logprob* entry = out->add_logit_bias();
    entry->set_id(id.value);
    entry->set_logprob(bias);
  }
  out->set_seed(sampling.seed);
  out->set_choice(sampling.choice);
  out->set_top_logprobs(sampling.top_logprobs);
}

engine::SamplingParams sampling_from(const wire::pb::Sampling& sampling) {
  engine::SamplingParams out;
  out.temperature = sampling.temperature();
  out.top_k = sampling.top_k();
  out.top_p = sampling.top_p();
  out.min_p = sampling.min_p();
  out.repetition_penalty = sampling.repetition_penalty();
  out.presence_penalty = sampling.presence_penalty();
  out.frequency_penalty = sampling.frequency_penalty();
  for (const wire::pb::Logprob& entry : sampling.logit_bias()) {
    out.logit_bias.emplace_back(TokenId{entry.id()}, entry.logprob());
  }
  out.seed = sampling.seed();
  out.choice = sampling.choice();
  out.top_logprobs = sampling.top_logprobs();
  return out;
}

}  // namespace

wire::pb::Admit to_message(const engine::Request& request, std::uint32_t attempt) {
  wire::pb::Admit admit;
  admit.set_request(request.id.value);
  admit.set_attempt(attempt);
  add_ids(request.prompt, admit.mutable_ids());
  add_ids(request.generated, admit.mutable_log());
  fill_sampling(request.sampling, admit.mutable_sampling());
  admit.set_max_tokens(request.max_tokens);
  add_ids(request.stop_ids, admit.mutable_stop_ids());
  add_ids(request.banned_ids, admit.mutable_banned_ids());
  if (request.grammar) {
    admit.mutable_grammar()->set_kind(static_cast<std::uint32_t>(request.grammar->kind));
    admit.mutable_grammar()->set_source(request.grammar->source);
  }
  return admit;
}

Result<engine::Request> from_message(const wire::pb::Admit& admit) {
  engine::Request request;
  request.id = RequestId{admit.request()};
  request.prompt = token_ids(admit.ids());
  request.generated = token_ids(admit.log());
  request.sampling = sampling_from(admit.sampling());
  request.max_tokens = admit.max_tokens();
  request.stop_ids = token_ids(admit.stop_ids());
  request.banned_ids = token_ids(admit.banned_ids());
  if (admit.has_grammar()) {
    const std::uint32_t kind = admit.grammar().kind();
    if (kind > kLastGrammar) return corrupt("admit: unknown grammar kind " + std::to_string(kind));
    request.grammar = text::GrammarSpec{.kind = static_cast<text::GrammarSpec::Kind>(kind),
                                        .source = admit.grammar().source()};
  }
  return request;
}

wire::pb::Token to_message(const engine::TokenEvent& event, std::uint32_t attempt) {
  wire::pb::Token token;
  token.set_request(event.request.value);
  token.set_attempt(attempt);
  token.set_index(event.index);
  if (event.token) {
    token.set_has_token(true);
    token.set_id(event.token->value);
  }
  token.set_finish(static_cast<std::uint32_t>(event.finish));
  token.set_error(event.error);
  if (event.finish == engine::FinishReason::kError) {
    token.set_error_code(static_cast<std::uint32_t>(ErrorCode::kUnavailable));
  }
  token.set_logprob(event.logprob);
  for (const engine::TokenLogprob& top : event.top) {
    wire::pb::Logprob* entry = token.add_top();
    entry->set_id(top.id.value);
    entry->set_logprob(top.logprob);
  }
  return token;
}

wire::pb::Token failure_message(RequestId request, std::uint32_t attempt, std::size_t index,
                                const Error& error) {
  wire::pb::Token token;
  token.set_request(request.value);
  token.set_attempt(attempt);
  token.set_index(index);
  token.set_finish(static_cast<std::uint32_t>(engine::FinishReason::kError));
  token.set_error(error.message);
  token.set_error_code(static_cast<std::uint32_t>(error.code));
  return token;
}

Result<engine::TokenEvent> from_message(const wire::pb::Token& token) {
  if (token.finish() > kLastFinish) {
    return corrupt("token: unknown finish reason " + std::to_string(token.finish()));
  }
  engine::TokenEvent event;
  event.request = RequestId{token.request()};
  event.index = token.index();
  if (token.has_token()) event.token = TokenId{token.id()};
  event.finish = static_cast<engine::FinishReason>(token.finish());
  event.error = token.error();
  event.logprob = token.logprob();
  for (const wire::pb::Logprob& top : token.top()) {
    event.top.push_back({.id = TokenId{top.id()}, .logprob = top.logprob()});
  }
  return event;
}

Error failure_of(const wire::pb::Token& token) {
  const std::uint32_t code = token.error_code();
  return {code > kLastErrorCode ? ErrorCode::kUnavailable : static_cast<ErrorCode>(code),
          token.error()};
}

wire::pb::Stats to_message(const engine::EngineStats& stats) {
  wire::pb::Stats out;
  out.set_steps(stats.steps);
  out.set_prompt_tokens(stats.prompt_tokens);
  out.set_generated_tokens(stats.generated_tokens);
  out.set_running(stats.running);
  out.set_waiting(stats.waiting);
  out.set_pages_used(stats.pages_used);
  out.set_pages_total(stats.pages_total);
  return out;
}

engine::EngineStats from_message(const wire::pb::Stats& stats) {
  engine::EngineStats out;
  out.steps = stats.steps();
  out.prompt_tokens = stats.prompt_tokens();
  out.generated_tokens = stats.generated_tokens();
  out.running = stats.running();
  out.waiting = stats.waiting();
  out.pages_used = stats.pages_used();
  out.pages_total = stats.pages_total();
  return out;
}

}  // namespace conclave::cluster
