#include <algorithm>
#include <utility>

#include "text/chat_messages.h"
#include "text/checkpoint_text.h"
#include "text/grammar_state.h"
#include "text/harmony_output.h"
#include "text/output_state.h"
#include "text/rust_call.h"
#include "text/tool_grammar.h"
#include "text/typescript_tools.h"
#include "text/vocabulary.h"

namespace conclave::text {

struct TextModel::State {
  CheckpointText checkpoint;
  Vocabulary vocabulary;
  std::vector<TokenId> stop_ids;
  std::vector<TokenId> banned_ids;
  MarkTable marks;
  std::optional<HarmonyMarks> harmony;
  std::optional<rust::Box<rust_bridge::Template>> chat_template;
  MessageStyle message_style;

  Result<rust_bridge::Rendered> render(const ChatPrompt& prompt) const;
  Result<Json> client_values(const ChatPrompt& prompt) const;
  std::vector<std::uint32_t> reasoning_mask() const;
};

namespace {

std::vector<std::uint32_t> numbers(std::span<const TokenId> ids) {
  std::vector<std::uint32_t> out;
  out.reserve(ids.size());
  for (const TokenId id : ids) out.push_back(id.value);
  return out;
}

}  // namespace

TextModel::TextModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
TextModel::TextModel(TextModel&&) noexcept = default;
TextModel& TextModel::operator=(TextModel&&) noexcept = default;
TextModel::~TextModel() = default;

Result<TextModel> TextModel::load(const std::filesystem::path& dir, std::size_t vocab_size) {
  CheckpointText checkpoint = TRY(read_checkpoint_text(dir));
  Vocabulary vocabulary = TRY(Vocabulary::load(dir, checkpoint, vocab_size));
  std::vector<TokenId> stop_ids = find_stop_ids(checkpoint, vocabulary);
  std::vector<TokenId> banned_ids = find_banned_ids(checkpoint, vocabulary, stop_ids);
  const MarkTable marks = find_marks(vocabulary);
  const std::optional<HarmonyMarks> harmony = find_harmony_marks(vocabulary);
  std::optional<rust::Box<rust_bridge::Template>> chat_template;
  MessageStyle style;
  if (checkpoint.chat_template) {
    const std::string& source = *checkpoint.chat_template;
    chat_template = TRY(rust_call(dir.string() + ": chat template", [&source] {
      return rust_bridge::compile_template(rust_bytes(source));
    }));
    style = message_style(source);
  }
  style.kimi_tool_ids = marks.form == CallForm::kKimi;
  style.think_tokens = marks.id(Mark::kEndThink).has_value();
  return TextModel(std::make_unique<State>(State{std::move(checkpoint), std::move(vocabulary),
                                                 std::move(stop_ids), std::move(banned_ids), marks,
                                                 harmony, std::move(chat_template), style}));
}

std::size_t TextModel::vocab_size() const { return state_->vocabulary.size(); }

Result<std::vector<TokenId>> TextModel::encode(std::string_view text, Specials specials) const {
  return state_->vocabulary.encode(text, specials);
}

std::string_view TextModel::token_bytes(TokenId id) const { return state_->vocabulary.bytes(id); }

std::string TextModel::decode(std::span<const TokenId> ids, bool hide_specials) const {
  Utf8Stream stream;
  std::string text;
  for (const TokenId id : ids) {
    if (!hide_specials || !hidden(id)) text += stream.push(token_bytes(id));
  }
  return text + stream.finish();
}

std::optional<TokenId> TextModel::special(std::string_view content) const {
  return state_->vocabulary.special(content);
}

bool TextModel::hidden(TokenId id) const { return state_->vocabulary.hidden(id); }

const std::vector<TokenId>& TextModel::stop_ids() const { return state_->stop_ids; }

const std::vector<TokenId>& TextModel::banned_ids() const { return state_->banned_ids; }

std::vector<TokenId> TextModel::call_begin_ids() const {
  std::vector<TokenId> ids;
  for (const std::string_view name :
       {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>", "<tool_call>"}) {
    if (const auto id = special(name)) ids.push_back(*id);
  }
  return ids;
}

const Json& TextModel::generation_defaults() const {
  return state_->checkpoint.generation_defaults;
}

bool TextModel::has_chat_template() const { return state_->chat_template.has_value(); }

// What the client sent: no string of it may become a control token.
Result<Json> TextModel::State::client_values(const ChatPrompt& prompt) const {
  Json values = Json::object();
  if (!prompt.template_kwargs.is_null() && !prompt.template_kwargs.is_object()) {
    return invalid_input("chat_template_kwargs: expected an object");
  }
  if (nests_deeper(prompt.template_kwargs, kJsonDepthMax) ||
      nests_deeper(prompt.tools, kJsonDepthMax)) {
    return invalid_input("tools or chat_template_kwargs: nested deeper than " +
                         std::to_string(kJsonDepthMax));
  }
  if (prompt.template_kwargs.is_object()) values = prompt.template_kwargs;
  values["messages"] = TRY(prepare_messages(prompt.messages, message_style));
  // A template without tools sees none, as with transformers; an empty list means the same.
  values["tools"] = prompt.tools.empty() ? Json(nullptr) : prompt.tools;
  if (!prompt.tools.is_null() && !prompt.tools.is_array()) {
    return invalid_input("tools: expected an array");
  }
  if (checkpoint.typescript_tools && !prompt.tools.empty()) {
    const std::string declared = typescript_tools(prompt.tools);
    if (!declared.empty()) values["tools_ts_str"] = declared;
  }
  return values;
}

Result<rust_bridge::Rendered> TextModel::State::render(const ChatPrompt& prompt) const {
  if (!chat_template) return unsupported("this model has no chat template");
  const std::string client = json_text(TRY(client_values(prompt)));
  Json trusted = Json::object();
  for (const auto& [name, content] : checkpoint.named_tokens) trusted[name] = content;
  trusted["add_generation_prompt"] = prompt.add_generation_prompt;
  const std::string trusted_text = json_text(trusted);
  return rust_call("chat template", [&] {
    return vocabulary.tokenizer().render(**chat_template, rust_bytes(client),
                                         rust_bytes(trusted_text));
  });
}

Result<std::vector<TokenId>> TextModel::render_chat(const ChatPrompt& prompt) const {
  const rust_bridge::Rendered rendered = TRY(state_->render(prompt));
  const auto ids = TRY(rust_call(
      "chat prompt", [&] { return state_->vocabulary.tokenizer().encode_rendered(rendered); }));
  std::vector<TokenId> out;
  out.reserve(ids.size());
  for (const std::uint32_t id : ids) out.push_back(TokenId{id});
  return out;
}

Result<std::string> TextModel::render_chat_text(const ChatPrompt& prompt) const {
  const rust_bridge::Rendered rendered = TRY(state_->render(prompt));
  std::string text(text_of(rendered.text));
  const std::string sentinel(text_of(rendered.sentinel));
  if (sentinel.empty()) return text;
  for (std::size_t at = text.find(sentinel); at != std::string::npos;
       at = text.find(sentinel, at)) {
    text.erase(at, sentinel.size());
  }
  return text;
}

OutputParser TextModel::output_parser(std::span<const TokenId> prompt, const Json& tools) const {
  if (state_->harmony) {
    return OutputParser(std::make_unique<HarmonyOutput>(state_->vocabulary, *state_->harmony,
                                                        prompt,
                                                        /*offers_tools=*/!tools.empty()));
  }
  return OutputParser(
      std::make_unique<MarkedOutput>(state_->vocabulary, state_->marks, prompt, ToolTypes(tools)));
}

bool TextModel::answers_in_channels() const { return state_->harmony.has_value(); }

// Any text, but neither an end of the answer nor a call: reasoning ends with </think>.
std::vector<std::uint32_t> TextModel::State::reasoning_mask() const {
  std::vector<std::uint32_t> words((vocabulary.size() + 31) / 32, ~0u);
  if (vocabulary.size() % 32 != 0) words.back() = (1u << (vocabulary.size() % 32)) - 1;
  const auto forbid = [&words](TokenId id) { words[id.value / 32] &= ~(1u << (id.value % 32)); };
  for (const rust_bridge::AddedToken& token : vocabulary.added()) {
    if (token.control) forbid(TokenId{token.id});
  }
  for (const TokenId id : banned_ids) forbid(id);
  for (const TokenId id : stop_ids) forbid(id);
  const TokenId end = *marks.id(Mark::kEndThink);
  words[end.value / 32] |= 1u << (end.value % 32);
  return words;
}

Result<GrammarMatcher> TextModel::grammar(const GrammarSpec& spec,
                                          std::span<const TokenId> prompt) const {
  const std::vector<std::uint32_t> stops = numbers(state_->stop_ids);
  const std::vector<std::uint32_t> banned = numbers(state_->banned_ids);
  auto matcher = TRY(rust_call("grammar", [&] {
    return state_->vocabulary.tokenizer().compile_grammar(
        static_cast<std::uint8_t>(spec.kind), rust_bytes(spec.source), {stops.data(), stops.size()},
        {banned.data(), banned.size()});
  }));
  auto state = std::make_unique<GrammarMatcher::State>(
      GrammarMatcher::State{std::move(matcher), vocab_size(), std::nullopt, {}});
  const MarkTable& marks = state_->marks;
  if (marks.id(Mark::kEndThink) && starts_in_reasoning(state_->vocabulary, marks, prompt)) {
    state->end_think = marks.id(Mark::kEndThink);
    state->reasoning_mask = state_->reasoning_mask();
  }
  return GrammarMatcher(std::move(state));
}

std::optional<GrammarSpec> TextModel::tool_call_grammar(const Json& tools,
                                                        std::string_view function_name,
                                                        bool parallel) const {
  const auto& source = state_->checkpoint.chat_template;
  const auto says = [&source](std::string_view text) {
    return source && source->find(text) != std::string::npos;
  };
  return text::tool_call_grammar(state_->marks, tools,
                                 {.function_name = function_name,
                                  .parallel = parallel,
                                  .fenced = says("```json"),
                                  .json_body = !says("<function=") && !says("<arg_key>")});
}

}  // namespace conclave::text
