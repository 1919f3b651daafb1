#include "engine/engine.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "base/check.h"
#include "engine/admission.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/step.h"

namespace conclave::engine {
namespace {

// A request between admission and its last token. Its tokens live in the scheduler.
struct Running {
  RequestId id;
  SamplingParams sampling;
  std::vector<TokenId> stop_ids;
  std::vector<TokenId> banned_ids;
  std::size_t n_prompt = 0;
  std::size_t n_answer = 0;    // tokens so far; the index of the next
  std::size_t answer_max = 0;  // at which the answer ends with kLength
  TokenHistory history;
  std::optional<text::GrammarMatcher> grammar;
};

bool contains(std::span<const TokenId> ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Whether an answer is over whose last token is `last` (nullopt: it has none yet). Where the
// grammar allows nothing but a stop token, the answer ends without a step to compute that token.
FinishReason finish_after(const Running& running, std::optional<TokenId> last) {
  if (last && contains(running.stop_ids, *last)) return FinishReason::kStop;
  if (running.grammar && running.grammar->finished()) return FinishReason::kStop;
  if (running.n_answer >= running.answer_max) return FinishReason::kLength;
  return FinishReason::kNone;
}

// The grammar's state after the tokens already sent.
Result<std::optional<text::GrammarMatcher>> start_grammar(const text::TextModel* text,
                                                          const Request& request) {
  std::optional<text::GrammarMatcher> matcher;
  if (!request.grammar) return matcher;
  if (text == nullptr) return unsupported("this model has no tokenizer, so it takes no grammar");
  matcher.emplace(TRY(text->grammar(*request.grammar, request.prompt)));
  for (const TokenId id : request.generated) {
    if (!contains(request.stop_ids, id)) TRY(matcher->accept(id));
  }
  return matcher;
}

SchedulerLimits scheduler_limits(const backend::Backend& backend, const EngineOptions& options) {
  return {.rows_max = backend.limits().rows_max,
          .chunk_tokens = options.chunk_tokens,
          .pages = backend.limits().pages,
          .requests_max = options.requests_max};
}

AdmissionLimits admission_limits(const backend::Backend& backend, const EngineOptions& options) {
  std::size_t context = backend.config().max_positions;
  if (options.context_max != 0) context = std::min(context, options.context_max);
  return {.vocab_size = backend.config().vocab_size,
          .context = context,
          .positions = backend.limits().pages * backend::kPageTokens};
}

}  // namespace

struct Engine::State {
  State(backend::Backend& the_backend, const text::TextModel* the_text,
        const EngineOptions& options)
      : backend(the_backend),
        text(the_text),
        limits(admission_limits(the_backend, options)),
        scheduling(scheduler_limits(the_backend, options)),
        scheduler(scheduling) {
    std::size_t vocab_size = limits.vocab_size;
    if (text != nullptr) vocab_size = std::max(vocab_size, text->vocab_size());
    mask.resize((vocab_size + 31) / 32);
  }

  Result<TokenEvent> sample_token(Running& request, std::span<const float> logits);
  TokenEvent finish_row(RequestId id, std::span<const float> logits);
  void end_without_token(const Running& request, FinishReason finish);
  void cancel(RequestId id);

  backend::Backend& backend;
  const text::TextModel* text;
  AdmissionLimits limits;
  SchedulerLimits scheduling;
  Scheduler scheduler;
  Ranks ranks;
  std::unordered_map<RequestId, Running> running;
  std::vector<TokenEvent> ended;  // between steps: the next step() returns them
  // A planned step that no epoch has finished yet, and the cancels that wait for it.
  const PlannedStep* unfinished = nullptr;
  std::vector<RequestId> cancels;
  std::vector<std::uint32_t> mask;  // scratch: one bit an id
  EngineStats stats;
};

// Samples the next token of a request and says whether the answer is over with it.
Result<TokenEvent> Engine::State::sample_token(Running& request, std::span<const float> logits) {
  std::span<const std::uint32_t> allowed;
  if (request.grammar) {
    TRY(request.grammar->fill_mask(mask));
    allowed = mask;
  }
  Sampled sampled = TRY(sample({.logits = logits,
                                .params = request.sampling,
                                .banned = request.banned_ids,
                                .mask = allowed,
                                .history = request.history,
                                .index = request.n_answer}));
  if (request.grammar && !contains(request.stop_ids, sampled.id)) {
    TRY(request.grammar->accept(sampled.id));
  }
  request.history.add(sampled.id);

  TokenEvent event;
  event.request = request.id;
  event.index = request.n_answer++;
  event.token = sampled.id;
  event.finish = finish_after(request, sampled.id);
  event.logprob = sampled.logprob;
  event.top = std::move(sampled.top);
  return event;
}

// One head row: its token goes on to the next step, or the request ends and frees its pages.
TokenEvent Engine::State::finish_row(RequestId id, std::span<const float> logits) {
  const auto found = running.find(id);
  CHECK(found != running.end());
  Running& request = found->second;

  TokenEvent event;
  Result<TokenEvent> sampled = sample_token(request, logits);
  if (sampled) {
    event = *std::move(sampled);
    ++stats.generated_tokens;
  } else {
    event.request = id;
    event.index = request.n_answer;
    event.finish = FinishReason::kError;
    event.error = "token " + std::to_string(request.n_answer) + " of the answer (position " +
                  std::to_string(request.n_prompt + request.n_answer) +
                  "): " + sampled.error().message;
  }
  if (event.finish == FinishReason::kNone) {
    scheduler.append(id, *event.token);
  } else {
    scheduler.remove(id);
    running.erase(found);
  }
  return event;
}

void Engine::State::end_without_token(const Running& request, FinishReason finish) {
  TokenEvent event;
  event.request = request.id;
  event.index = request.n_answer;
  event.finish = finish;
  ended.push_back(std::move(event));
}

Engine::Engine(backend::Backend& backend, const text::TextModel* text, EngineOptions options)
    : state_(std::make_unique<State>(backend, text, options)) {}

Engine::~Engine() = default;

Result<void> Engine::admit(Request request) {
  State& s = *state_;
  const std::size_t answer_max = TRY(check_request(request, s.limits));
  // The last token of an answer is never fed back, so its KV needs no room.
  const std::size_t positions_max = request.prompt.size() + answer_max - 1;
  TRY(s.scheduler.check(request.id, positions_max));
  auto grammar = TRY(start_grammar(s.text, request));
  TokenHistory history(request.sampling, request.prompt, request.generated);
  Running running{.id = request.id,
                  .sampling = std::move(request.sampling),
                  .stop_ids = std::move(request.stop_ids),
                  .banned_ids = std::move(request.banned_ids),
                  .n_prompt = request.prompt.size(),
                  .n_answer = request.generated.size(),
                  .answer_max = answer_max,
                  .history = std::move(history),
                  .grammar = std::move(grammar)};

  std::optional<TokenId> last;
  if (!request.generated.empty()) last = request.generated.back();
  const FinishReason finish = finish_after(running, last);
  if (finish != FinishReason::kNone) {  // the log was already complete
    s.end_without_token(running, finish);
    return {};
  }

  TRY(s.scheduler.add(request.id, request.prompt, request.generated, positions_max));
  s.running.emplace(request.id, std::move(running));
  return {};
}

void Engine::State::cancel(RequestId id) {
  const auto found = running.find(id);
  if (found == running.end()) return;
  end_without_token(found->second, FinishReason::kCancelled);
  scheduler.remove(id);
  running.erase(found);
}

void Engine::cancel(RequestId id) {
  State& s = *state_;
  if (s.unfinished == nullptr) {
    s.cancel(id);
  } else if (s.running.contains(id)) {
    s.cancels.push_back(id);
  }
}

bool Engine::idle() const { return state_->running.empty() && state_->ended.empty(); }

void Engine::set_group(collective::Group* group, Division division) {
  State& s = *state_;
  if (group != nullptr) CHECK(check_division(division, *group, s.backend));
  s.ranks.group = group;
  s.ranks.division = std::move(division);
  s.ranks.n_steps = 0;
}

void Engine::set_trace(StepTrace* trace) { state_->ranks.trace = trace; }

Result<std::vector<TokenEvent>> Engine::step(const std::function<void()>& advanced) {
  State& s = *state_;
  if (s.unfinished == nullptr) {
    const PlannedStep& next = s.scheduler.plan();
    if (next.empty()) return std::exchange(s.ended, {});
    s.unfinished = &next;
  }
  const PlannedStep& planned = *s.unfinished;
  const std::span<const float> logits = TRY(run_step(
      s.backend, s.ranks, planned.step(), {.forced = {}, .chosen = {}, .advanced = advanced}));
  s.unfinished = nullptr;
  ++s.stats.steps;
  s.stats.prompt_tokens += planned.prefill_rows;
  for (const RequestId id : std::exchange(s.cancels, {})) s.cancel(id);

  std::vector<TokenEvent> events = std::exchange(s.ended, {});
  const std::size_t vocab_size = s.limits.vocab_size;
  const std::span<const RequestId> requests = planned.head_requests;
  CHECK(logits.size() == requests.size() * vocab_size);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (!s.running.contains(requests[i])) continue;  // cancelled after the step was planned
    events.push_back(s.finish_row(requests[i], logits.subspan(i * vocab_size, vocab_size)));
    if (advanced) advanced();
  }
  return events;
}

void Engine::reset() {
  State& s = *state_;
  s.scheduler = Scheduler(s.scheduling);
  s.running.clear();
  s.ended.clear();
  s.cancels.clear();
  s.unfinished = nullptr;
}

std::optional<std::pair<std::size_t, std::size_t>> Engine::prefill_progress(RequestId id) const {
  return state_->scheduler.prefill_progress(id);
}

EngineStats Engine::stats() const {
  EngineStats stats = state_->stats;
  stats.running = state_->scheduler.running();
  stats.waiting = state_->scheduler.waiting();
  stats.pages_used = state_->scheduler.pages().used();
  stats.pages_total = state_->scheduler.pages().total();
  return stats;
}

}  // namespace conclave::engine
