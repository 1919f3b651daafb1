// The engine: many requests, one backend. Admission, chunked prefill, decode, sampling.
//
//   engine::Engine engine(backend, &text, options);
//   TRY(engine.admit(request));
//   while (!engine.idle()) for (const TokenEvent& event : TRY(engine.step())) ...
//
// With several ranks an Engine runs on rank 0; the others call follow_step() of engine/step.h.
//
// Threads: one thread calls an Engine. It reads no clock and no random numbers: every choice is a
// function of the requests, so the same requests give the same tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/ids.h"
#include "base/result.h"
#include "engine/step.h"
#include "text/text.h"

namespace conclave::engine {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  int top_k = 0;             // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // 1: off; divides positive, multiplies negative logits
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias = {};
  std::uint64_t seed = 0;    // noise = hash(seed, choice, position, token id)
  std::uint32_t choice = 0;  // of a request with n > 1
  int top_logprobs = -1;     // -1: no logprobs; 0..20: the chosen token's and so many more
};

// A request as the worker sees it. Stop strings, parsers and UTF-8 are the server's.
struct Request {
  RequestId id;
  std::vector<TokenId> prompt = {};     // at least one
  std::vector<TokenId> generated = {};  // tokens already sent, after a restart: the token log
  SamplingParams sampling = {};
  std::size_t max_tokens = 0;  // of the whole answer, `generated` included; 0: up to the context
  std::vector<TokenId> stop_ids = {};    // end the answer; reported as its last token
  std::vector<TokenId> banned_ids = {};  // never sampled
  std::optional<text::GrammarSpec> grammar = {};
};

enum class FinishReason : std::uint8_t { kNone, kStop, kLength, kCancelled, kError };

struct TokenLogprob {
  TokenId id;
  float logprob = 0.0f;
};

struct TokenEvent {
  RequestId request;
  std::size_t index = 0;  // of the token in the answer: the token log's length before it
  std::optional<TokenId> token = {};  // absent when the request ends without one
  FinishReason finish = FinishReason::kNone;
  std::string error = {};  // for kError
  float logprob = 0.0f;
  std::vector<TokenLogprob> top = {};  // best first
};

struct EngineOptions {
  std::size_t requests_max = 256;  // admitted at once; more is kExhausted
  std::size_t chunk_tokens = 512;  // prefill chunk, at least 1; lowered to the backend's rows_max
  std::size_t context_max = 0;     // 0: the model's
};

struct EngineStats {
  std::uint64_t steps = 0;
  std::uint64_t prompt_tokens = 0;  // prefilled
  std::uint64_t generated_tokens = 0;
  std::size_t running = 0;
  std::size_t waiting = 0;
  std::size_t pages_used = 0;
  std::size_t pages_total = 0;
};

class Engine {
 public:
  // `backend` must outlive the engine; `text` may be null (then no grammars).
  Engine(backend::Backend& backend, const text::TextModel* text, EngineOptions options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // kInvalidInput: empty prompt, an id outside the vocabulary, no room for an answer in the
  // context, a sampling parameter out of range, a bad grammar, a request id in use. kExhausted: too
  // many requests, or one that can never fit the KV memory. kUnsupported: a grammar without a text
  // model. A request whose log is already complete ends at the next step() without a token. A
  // grammar is compiled here, after every other check: it may take seconds.
  Result<void> admit(Request request);
  // Frees its slot before the next step; its kCancelled comes with the next step()'s events.
  // Unknown ids are ignored.
  void cancel(RequestId id);
  bool idle() const;

  // From the next step on, other ranks take part: a new epoch. Between steps. `group` must outlive
  // its use, check_division() must hold; null: this rank is alone, as it is at first.
  void set_group(collective::Group* group, Division division);
  // Told of each operation of the steps from now on; must outlive its use. Null: nobody is.
  void set_trace(StepTrace* trace);

  // Runs one forward pass and samples. Prefill chunks and decode rows share a step; a long prompt
  // delays others by one chunk at most. `advanced` is called after each operation of the pass
  // (several a layer) and after each sampled token.
  //
  // An error is the group's: the epoch is over. Nothing was sampled, and no event is lost: the next
  // step() runs the same rows again, in the group that is set by then. Until that succeeds, what
  // cancel() asks for waits, because the rows' pages are still to be written.
  Result<std::vector<TokenEvent>> step(const std::function<void()>& advanced = {});
  // Drops all requests and events, without an event: they will be admitted again.
  void reset();
  // {prefilled, to prefill in all} tokens of a request, for progress; nullopt when unknown.
  std::optional<std::pair<std::size_t, std::size_t>> prefill_progress(RequestId id) const;

  EngineStats stats() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Teacher-forced evaluation of a list of ids, for `logits`, `perplexity` and tests.
struct EvaluateOptions {
  std::size_t chunk_tokens = 512;
  // [position][MoE layer][k], in any order within a layer: use these experts, weights recomputed.
  // Empty: free choice.
  std::span<const ExpertId> forced_experts = {};
};
struct EvaluatedRow {
  std::size_t position = 0;
  std::span<const float> logits;      // [vocab]
  std::span<const ExpertId> experts;  // [MoE layer][k], ascending within a layer
};
// Calls `row` for every position in order.
Result<void> evaluate(backend::Backend& backend, std::span<const TokenId> ids,
                      const EvaluateOptions& options,
                      const std::function<void(const EvaluatedRow&)>& row);

}  // namespace conclave::engine
