// One request's answers: from tokens to events, for all of its choices. No I/O.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/api_error.h"
#include "server/generate_request.h"
#include "text/text.h"

namespace conclave::server {

// One choice: its tokens go through the answer parser (reasoning, calls, whole code points, stop
// strings), and its events get the choice's index and the tokens' logprobs.
class Choice {
 public:
  struct Options {
    std::size_t index = 0;
    std::vector<std::string> stop;
    std::vector<TokenId> stop_ids;
    bool logprobs = false;
    bool one_call = false;  // the answer ends after its first call
  };
  // `text` must outlive the choice.
  Choice(const text::TextModel& text, text::OutputParser parser, Options options);

  // Events in order; the last one of the answer is kEnd. An answer may end here before the engine
  // ends it; nothing may be pushed after the end.
  std::vector<AnswerEvent> push(const engine::TokenEvent& token);

  bool ended() const { return ended_; }
  std::size_t tokens() const { return n_tokens_; }
  std::size_t reasoning_tokens() const { return n_reasoning_tokens_; }

 private:
  void add_text(std::vector<AnswerEvent>& events, AnswerEvent::Kind kind, std::string text,
                int tool_index = 0);
  // False: the answer has ended with these.
  bool take(std::vector<AnswerEvent>& events, std::vector<text::OutputEvent> outputs);
  void begin_call(std::vector<AnswerEvent>& events, text::OutputEvent output);
  void end(std::vector<AnswerEvent>& events, AnswerEnd reason);
  void note_logprob(const engine::TokenEvent& token);
  std::vector<LogprobEntry> take_logprobs(bool all);

  const text::TextModel& text_;
  text::AnswerParser answer_;
  Options options_;
  // Not yet sent. `start`: the content before the token, in bytes; a token is sent with the first
  // event that shows some of it, because a stop string may still take it back.
  struct HeldLogprob {
    LogprobEntry entry;
    std::size_t start = 0;
  };
  std::vector<HeldLogprob> logprobs_;
  std::size_t n_shown_ = 0;  // bytes of content in events
  std::size_t n_tokens_ = 0;
  std::size_t n_reasoning_tokens_ = 0;
  bool ended_ = false;
};

// Grammars that compiled. Only the worker needs what is compiled, so a client that sends the same
// schema with every request waits here once. The oldest of 8 (8 MiB at most) makes room.
class CheckedGrammars {
 public:
  bool contains(const text::GrammarSpec& spec) const;
  void add(const text::GrammarSpec& spec);

 private:
  std::deque<text::GrammarSpec> specs_;
};

// A request ready to run.
struct Generation {
  std::vector<TokenId> prompt;
  std::vector<Choice> choices;
  std::vector<engine::Request> requests;  // one a choice, ids left 0

  bool ended() const;
  Usage usage() const;
};

// Renders the prompt (after a look at its size), chooses the grammar and checks that it compiles
// and that the prompt fits `context_max` tokens. `seed`: for requests that name none. `checked`:
// the memory of earlier calls with the same `text`.
Parsed<Generation> start_generation(const text::TextModel& text, const GenerateRequest& request,
                                    std::size_t context_max, std::uint64_t seed,
                                    CheckedGrammars& checked);

}  // namespace conclave::server
