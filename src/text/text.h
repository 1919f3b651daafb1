// Text in, text out: tokenizers, chat templates, streaming UTF-8, output parsers, grammars.
//
// The C++ face of crates/text (Rust: tokenizers, tiktoken-rs, minijinja, llguidance).
//
//   auto text = TRY(text::TextModel::load("models/ember"));
//   auto ids = TRY(text.render_chat({.messages = messages}));       // prompt ids
//   text::OutputParser parser = text.output_parser(ids);
//   for (TokenId id : answer) for (auto& event : parser.push(id)) ...
//
// Threads: a TextModel is immutable after load and may be shared; parsers, streams and matchers
// belong to one thread at a time. Everything here may meet untrusted bytes and has stated limits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace conclave::text {

using Json = nlohmann::ordered_json;  // key order reaches the prompt

enum class Specials {
  kPlain,    // "<|im_end|>" in the text stays text: for anything a user wrote
  kAllowed,  // "<|im_end|>" becomes its token: for rendered templates
};

// What a chat template needs. `messages` as OpenAI sends them (role, content as string or parts,
// tool_calls, tool_call_id, name, reasoning_content); `tools` as OpenAI's array, or null.
struct ChatPrompt {
  Json messages = Json::array();
  Json tools = nullptr;
  Json template_kwargs = Json::object();  // e.g. {"thinking": false}
  bool add_generation_prompt = true;
};

// Bytes of tokens to whole code points: never splits a code point, never invents U+FFFD for one
// that is still incomplete. Invalid bytes become U+FFFD as soon as they are certain.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);  // what is complete now
  std::string finish();                      // the held-back rest, repaired

 private:
  std::string held_;  // at most 3 bytes
};

// Finds stop strings in a stream. Text that might be the start of a stop string is held back, so
// no part of one is ever shown.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  struct Output {
    std::string text;
    std::optional<std::string> stopped_by;  // then nothing after `text` counts
  };
  Output push(std::string_view text);
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
};

// One piece of a model's answer. docs/models.md 7.3 and 7.4.
struct OutputEvent {
  enum class Kind {
    kReasoning,      // text
    kContent,        // text
    kToolBegin,      // tool_index, tool_id, tool_name
    kToolArguments,  // tool_index, text: the next piece of the arguments string
    kToolEnd,        // tool_index
  };
  Kind kind = Kind::kContent;
  std::string text = {};
  int tool_index = 0;
  std::string tool_id = {};
  std::string tool_name = {};
  bool operator==(const OutputEvent&) const = default;
};

// Splits an answer into reasoning, content and tool calls, driven by token ids. The forms of Kimi,
// DeepSeek, Qwen, GLM and gpt-oss are chosen by which special tokens the vocabulary has; other
// models give content only. Calls between <tool_call> tags (Qwen, GLM) come whole, at their end.
class OutputParser {
 public:
  OutputParser(OutputParser&&) noexcept;
  OutputParser& operator=(OutputParser&&) noexcept;
  ~OutputParser();
  std::vector<OutputEvent> push(TokenId id);
  std::vector<OutputEvent> finish();
  int tool_calls() const;  // begun so far

  struct State;  // a family's form

 private:
  friend class TextModel;
  explicit OutputParser(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// An answer as its reader may see it: the events of an OutputParser, the content of which has
// passed the stop strings. Reasoning and arguments are not searched.
class AnswerParser {
 public:
  AnswerParser(OutputParser parser, std::vector<std::string> stops);
  // Nothing comes from a stop string on: neither it nor what follows.
  std::vector<OutputEvent> push(TokenId id);
  std::vector<OutputEvent> finish();

  bool stopped() const { return stopped_; }  // a stop string was met
  int tool_calls() const { return parser_.tool_calls(); }
  bool in_reasoning() const { return in_reasoning_; }  // the last event was reasoning
  // Of content so far, with what is held back because it may begin a stop string.
  std::size_t content_bytes() const { return content_bytes_; }

 private:
  std::vector<OutputEvent> pass(std::vector<OutputEvent> outputs);

  OutputParser parser_;
  StopStrings stops_;
  std::size_t content_bytes_ = 0;
  bool in_reasoning_ = false;
  bool stopped_ = false;
};

struct GrammarSpec {
  enum class Kind { kJsonObject, kJsonSchema, kRegex, kLark };
  Kind kind = Kind::kJsonSchema;
  std::string source = {};  // the schema, regex or grammar; at most 1 MiB
};

// Follows a grammar and says which tokens may come next.
class GrammarMatcher {
 public:
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;
  ~GrammarMatcher();

  // Bit `id % 32` of word `id / 32` says whether `id` may come next. `words` must hold
  // ceil(vocab_size / 32) words. Stop tokens are allowed where the grammar may end.
  Result<void> fill_mask(std::span<std::uint32_t> words);
  Result<void> accept(TokenId id);
  bool finished() const;  // nothing but a stop token may follow

 private:
  friend class TextModel;
  struct State;
  explicit GrammarMatcher(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Everything a checkpoint folder says about text: tokenizer, special tokens, chat template, stops.
// It must outlive the parsers and matchers it makes; moving it is fine.
class TextModel {
 public:
  // Needs `tokenizer.json` or `tiktoken.model` with `tokenizer_config.json`. kNotFound when the
  // folder has no tokenizer at all (such a model still serves token ids).
  // `vocab_size`: rows of the embedding; ids at or above it are never produced.
  static Result<TextModel> load(const std::filesystem::path& dir, std::size_t vocab_size);

  TextModel(TextModel&&) noexcept;
  TextModel& operator=(TextModel&&) noexcept;
  ~TextModel();

  std::size_t vocab_size() const;

  Result<std::vector<TokenId>> encode(std::string_view text, Specials specials) const;
  // The raw bytes of a token; empty for an id without text.
  std::string_view token_bytes(TokenId id) const;
  // Whole text of ids; special tokens marked `special: true` are left out if `hide_specials`.
  std::string decode(std::span<const TokenId> ids, bool hide_specials) const;
  std::optional<TokenId> special(std::string_view content) const;
  // True for tokens users should not see (`special: true` in tokenizer_config.json).
  bool hidden(TokenId id) const;

  // The ids that end an answer: generation_config, config, tokenizer_config, template
  // (docs/models.md 8).
  const std::vector<TokenId>& stop_ids() const;
  // Ids that must never be sampled: reserved, padding, unknown, media (docs/models.md 11.30).
  const std::vector<TokenId>& banned_ids() const;
  // What begins a call, in the families that have calls: banned where no tools are offered, for
  // nobody could run the call.
  std::vector<TokenId> call_begin_ids() const;
  // "temperature", "top_p", ... of generation_config.json, or an empty object.
  const Json& generation_defaults() const;

  bool has_chat_template() const;
  // Renders and encodes. Special strings inside any message or tool stay plain text.
  Result<std::vector<TokenId>> render_chat(const ChatPrompt& prompt) const;
  // The same prompt as text, for people and tests.
  Result<std::string> render_chat_text(const ChatPrompt& prompt) const;

  // `prompt`: the ids the answer follows; its end decides whether the answer starts in reasoning.
  // `tools`: OpenAI's array; where a family writes arguments without types, their schemas give
  // them.
  OutputParser output_parser(std::span<const TokenId> prompt, const Json& tools = nullptr) const;

  // gpt-oss: an answer begins with a header, which a grammar of its content would forbid.
  bool answers_in_channels() const;

  // Errors name what the grammar compiler rejects. `prompt`: the ids the answer follows; where it
  // leaves the answer inside its reasoning, any text is allowed until `</think>`, and the grammar
  // starts after that.
  Result<GrammarMatcher> grammar(const GrammarSpec& spec,
                                 std::span<const TokenId> prompt = {}) const;
  // For tool_choice: one call of `function_name` (empty: any of `tools`), arguments by schema,
  // in the model's own call syntax. nullopt when the model has none, or one that no schema can
  // describe (Qwen3-Coder, GLM).
  std::optional<GrammarSpec> tool_call_grammar(const Json& tools, std::string_view function_name,
                                               bool parallel) const;

 private:
  struct State;
  explicit TextModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::text
