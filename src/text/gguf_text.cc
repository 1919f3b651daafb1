#include "text/gguf_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace conclave::text {
namespace {

using formats::Gguf;
using nlohmann::json;  // sorted: a vocabulary is looked up by its names

constexpr std::size_t kTokensMax = std::size_t{1} << 22;
constexpr std::size_t kPieceBytesMax = 256;  // longer ones are never merged: no text has them
constexpr std::size_t kMergesMax = std::size_t{1} << 22;

// tokenizer.ggml.token_type
enum TokenType : std::int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Tokens {
  std::vector<std::string_view> names;
  std::vector<std::int64_t> types;  // as many

  // Found in text as a whole, before it is cut into pieces.
  bool is_added(std::size_t id) const { return is_special(id) || types[id] == kUserDefined; }
  bool is_special(std::size_t id) const { return types[id] == kControl || types[id] == kUnknown; }
};

Result<Tokens> read_tokens(const Gguf& gguf) {
  Tokens out;
  out.names = TRY(gguf.texts("tokenizer.ggml.tokens"));
  out.types = TRY(gguf.integers("tokenizer.ggml.token_type"));
  if (out.types.empty()) out.types.assign(out.names.size(), kNormal);
  if (out.names.empty()) return not_found(gguf.label() + ": no tokenizer.ggml.tokens");
  if (out.names.size() > kTokensMax) {
    return invalid_input(gguf.label() +
                         ": tokenizer.ggml.tokens: " + std::to_string(out.names.size()) +
                         ", limit " + std::to_string(kTokensMax));
  }
  if (out.types.size() == out.names.size()) return out;
  return invalid_input(gguf.label() +
                       ": tokenizer.ggml.token_type: " + std::to_string(out.types.size()) +
                       " types, expected " + std::to_string(out.names.size()));
}

// ---- How text is cut into pieces, by tokenizer.ggml.pre ----------------------------------------

constexpr std::string_view kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
constexpr std::string_view kSpaces = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string qwen_pattern(std::string_view digits) {
  return std::string(kContractions) + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" + std::string(digits) +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)" + std::string(kSpaces);
}

// o200k's pattern; `letter` stands before each class of letters.
std::string cased_pattern(std::string_view letter, std::string_view punctuation_end) {
  const std::string upper = "(?:" + std::string(letter) + R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]))";
  const std::string lower = "(?:" + std::string(letter) + R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]))";
  const std::string before = R"([^\r\n\p{L}\p{N}]?)";
  const std::string after = std::string(kContractions) + "?";
  return before + upper + "*" + lower + "+" + after + "|" + before + upper + "+" + lower + "*" +
         after + R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+)" + std::string(punctuation_end) +
         std::string(kSpaces);
}

using Patterns = std::vector<std::string>;

Patterns deepseek_v3_patterns() {
  return {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
          R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
          R"(| ?[\p{P}\p{S}]+[\r\n]*)" +
              std::string(kSpaces)};
}

// As its tokenizer.json spells out the letters.
constexpr std::string_view kDeepSeekLetters =
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌ"
    "Ύ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ"
    "-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ"
    "-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ"
    "-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-"
    "𐑏"
    "𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]";

Patterns deepseek_llm_patterns() {
  return {R"([\r\n])",
          R"(\s?)" + std::string(kDeepSeekLetters) + "+",
          R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)",
          R"(\s+$)",
          "[一-龥ࠀ-一가-\xED\x9F\xBF]+",
          R"(\p{N})"};
}

Patterns kimi_patterns() {
  return {R"([\p{Han}]+|)" + cased_pattern(R"((?!\p{Han}))", R"([\r\n]*)")};
}

struct PreTokenizer {
  std::string_view name;
  Patterns (*patterns)();
  bool whole_pieces;  // a piece that is a token is one, whatever the merges say
  bool nfc;
};

constexpr std::array kPreTokenizers = {
    PreTokenizer{"kimi-k2", kimi_patterns, true, false},
    PreTokenizer{"deepseek-v3", deepseek_v3_patterns, false, false},
    PreTokenizer{"joyai-llm", deepseek_v3_patterns, false, false},
    PreTokenizer{"deepseek-r1-qwen", [] { return Patterns{qwen_pattern(R"(\p{N})")}; }, false,
                 true},
    PreTokenizer{"deepseek-llm", deepseek_llm_patterns, false, false},
    PreTokenizer{"qwen2", [] { return Patterns{qwen_pattern(R"(\p{N})")}; }, false, true},
    PreTokenizer{"glm4", [] { return Patterns{qwen_pattern(R"(\p{N}{1,3})")}; }, true, false},
    PreTokenizer{"glm5", [] { return Patterns{qwen_pattern(R"(\p{N}{1,3})")}; }, true, false},
    PreTokenizer{"chatglm-bpe", [] { return Patterns{qwen_pattern(R"(\p{N}{1,3})")}; }, false,
                 false},
    PreTokenizer{"llama3", [] { return Patterns{qwen_pattern(R"(\p{N}{1,3})")}; }, true, false},
    PreTokenizer{"llama-v3", [] { return Patterns{qwen_pattern(R"(\p{N}{1,3})")}; }, true, false},
    PreTokenizer{"llama-bpe", [] { return Patterns{qwen_pattern(R"(\p{N}{1,3})")}; }, true, false},
    PreTokenizer{"gpt-4o", [] { return Patterns{cased_pattern("", R"([\r\n/]*)")}; }, true, false},
    PreTokenizer{"gpt-2", [] { return Patterns{}; }, false, false},
    PreTokenizer{"gigachat", [] { return Patterns{}; }, false, false},
};

Result<const PreTokenizer*> find_pre_tokenizer(const Gguf& gguf) {
  const std::string name = TRY(gguf.text_if_there("tokenizer.ggml.pre")).value_or("");
  const auto found = std::ranges::find(kPreTokenizers, name, &PreTokenizer::name);
  if (found != kPreTokenizers.end()) return &*found;
  std::string known;
  for (const PreTokenizer& one : kPreTokenizers) {
    known += (known.empty() ? "" : ", ") + std::string(one.name);
  }
  return unsupported(gguf.label() + ": tokenizer.ggml.pre: \"" + name.substr(0, 40) +
                     "\", expected one of " + known);
}

json pre_tokenizer_json(const Patterns& patterns) {
  json list = json::array();
  for (const std::string& pattern : patterns) {
    list.push_back({{"type", "Split"},
                    {"pattern", {{"Regex", pattern}}},
                    {"behavior", "Isolated"},
                    {"invert", false}});
  }
  list.push_back({{"type", "ByteLevel"},
                  {"add_prefix_space", false},
                  {"trim_offsets", false},
                  {"use_regex", patterns.empty()}});
  return {{"type", "Sequence"}, {"pretokenizers", list}};
}

// ---- The parts of tokenizer.json ---------------------------------------------------------------

json added_tokens_json(const Tokens& tokens) {
  json list = json::array();
  for (std::size_t id = 0; id < tokens.names.size(); ++id) {
    if (!tokens.is_added(id)) continue;
    list.push_back({{"id", id},
                    {"content", tokens.names[id]},
                    {"special", tokens.is_special(id)},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false}});
  }
  return list;
}

json vocabulary_json(const Tokens& tokens) {
  json vocabulary = json::object();
  for (std::size_t id = 0; id < tokens.names.size(); ++id) {
    if (tokens.types[id] == kControl || tokens.types[id] == kUnused) continue;
    vocabulary[std::string(tokens.names[id])] = id;
  }
  return vocabulary;
}

Result<json> byte_level_json(const Gguf& gguf, const Tokens& tokens) {
  const PreTokenizer& pre = *TRY(find_pre_tokenizer(gguf));
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  json merges = json::array();
  if (gguf.find("tokenizer.ggml.merges") == nullptr) {
    return not_found(gguf.label() + ": no tokenizer.ggml.merges");
  }
  const std::vector<std::string_view> listed = TRY(gguf.texts("tokenizer.ggml.merges"));
  for (const std::string_view merge : listed) merges.push_back(merge);
  return json{{"normalizer", pre.nfc ? json{{"type", "NFC"}} : json(nullptr)},
              {"pre_tokenizer", pre_tokenizer_json(pre.patterns())},
              {"decoder", byte_level},
              {"model",
               {{"type", "BPE"},
                {"vocab", vocabulary_json(tokens)},
                {"merges", merges},
                {"ignore_merges", pre.whole_pieces}}}};
}

// Every way to make a piece out of two others, the best piece first: what SentencePiece's scores
// mean as merges.
Result<json> merges_from_scores(const Tokens& tokens, const std::vector<float>& scores,
                                const std::string& label) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < tokens.names.size(); ++id) {
    if (tokens.types[id] == kNormal) ids.emplace(tokens.names[id], id);
  }
  struct Merge {
    float score;
    std::string text;
  };
  std::vector<Merge> merges;
  for (const auto& [name, id] : ids) {
    if (name.size() > kPieceBytesMax) continue;
    if (!std::isfinite(scores[id])) {
      return invalid_input(label + ": tokenizer.ggml.scores: [" + std::to_string(id) +
                           "] is NaN or infinite, expected a finite number");
    }
    if (merges.size() > kMergesMax) {
      return invalid_input(label + ": tokenizer.ggml.tokens: more than " +
                           std::to_string(kMergesMax) + " ways to merge them");
    }
    for (std::size_t at = 1; at < name.size(); ++at) {
      const std::string_view left = name.substr(0, at);
      const std::string_view right = name.substr(at);
      if (!ids.contains(left) || !ids.contains(right)) continue;
      merges.push_back({scores[id], std::string(left) + " " + std::string(right)});
    }
  }
  std::ranges::sort(merges, [](const Merge& a, const Merge& b) {
    return a.score != b.score ? a.score > b.score : a.text < b.text;
  });
  json out = json::array();
  for (const Merge& merge : merges) out.push_back(merge.text);
  return out;
}

Result<json> sentence_piece_json(const Gguf& gguf, const Tokens& tokens) {
  const std::vector<float> scores = TRY(gguf.floats("tokenizer.ggml.scores"));
  if (scores.size() != tokens.names.size()) {
    return invalid_input(gguf.label() +
                         ": tokenizer.ggml.scores: " + std::to_string(scores.size()) +
                         " scores, expected " + std::to_string(tokens.names.size()));
  }
  json steps = json::array();
  if (TRY(gguf.flag_if_there("tokenizer.ggml.add_space_prefix")).value_or(true)) {
    steps.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  }
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}});
  const json merges = TRY(merges_from_scores(tokens, scores, gguf.label()));
  const auto unknown = std::ranges::find(tokens.types, std::int64_t{kUnknown});
  const json unknown_name =
      unknown == tokens.types.end()
          ? json(nullptr)
          : json(tokens.names[static_cast<std::size_t>(unknown - tokens.types.begin())]);
  return json{{"normalizer", {{"type", "Sequence"}, {"normalizers", steps}}},
              {"pre_tokenizer", nullptr},
              {"decoder", {{"type", "Fuse"}}},
              {"model",
               {{"type", "BPE"},
                {"vocab", vocabulary_json(tokens)},
                {"merges", merges},
                {"unk_token", unknown_name},
                {"fuse_unk", true},
                {"byte_fallback", true}}}};
}

// What ends a turn, by its spelling: files name one or two of those that their models know.
constexpr std::array<std::string_view, 10> kTurnEnds = {
    "<|im_end|>", "<|return|>", "<|call|>", "<|endoftext|>",   "<|eot_id|>",
    "<|eom_id|>", "[EOT]",      "[EOS]",    "<|end_of_text|>", "<｜end▁of▁sentence｜>"};

Result<void> add_stop_ids(const Gguf& gguf, const Tokens& tokens, CheckpointText& out) {
  for (const std::uint64_t id : TRY(formats::end_token_ids(gguf))) {
    if (id < tokens.names.size()) out.stop_ids.push_back(static_cast<std::uint32_t>(id));
  }
  for (std::size_t id = 0; id < tokens.names.size(); ++id) {
    const bool ends = std::ranges::find(kTurnEnds, tokens.names[id]) != kTurnEnds.end();
    if (ends && tokens.is_special(id)) out.stop_ids.push_back(static_cast<std::uint32_t>(id));
  }
  return {};
}

// The converter's copy of generation_config.json.
Result<void> add_defaults(const Gguf& gguf, CheckpointText& out) {
  const std::pair<std::string_view, std::string_view> names[] = {
      {"temp", "temperature"}, {"top_k", "top_k"}, {"top_p", "top_p"}, {"min_p", "min_p"}};
  for (const auto& [key, name] : names) {
    const auto value = TRY(gguf.number_if_there("general.sampling." + std::string(key)));
    if (!value) continue;
    if (key == "top_k") {
      out.generation_defaults[std::string(name)] = static_cast<std::int64_t>(*value);
    } else {
      out.generation_defaults[std::string(name)] = std::round(*value * 1e6) / 1e6;
    }
  }
  return {};
}

}  // namespace

Result<std::string> tokenizer_from_gguf(const Gguf& gguf) {
  const Tokens tokens = TRY(read_tokens(gguf));
  const std::string kind = TRY(gguf.text_if_there("tokenizer.ggml.model")).value_or("");
  if (kind != "gpt2" && kind != "llama") {
    return unsupported(gguf.label() + ": tokenizer.ggml.model: \"" + kind.substr(0, 40) +
                       "\", expected \"gpt2\" or \"llama\"");
  }
  json out =
      kind == "gpt2" ? TRY(byte_level_json(gguf, tokens)) : TRY(sentence_piece_json(gguf, tokens));
  out["version"] = "1.0";
  out["added_tokens"] = added_tokens_json(tokens);
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<CheckpointText> checkpoint_text_from_gguf(const Gguf& gguf) {
  CheckpointText out;
  Tokens tokens;
  if (gguf.find("tokenizer.ggml.tokens") != nullptr) tokens = TRY(read_tokens(gguf));
  for (std::size_t id = 0; id < tokens.names.size(); ++id) {
    if (!tokens.is_added(id)) continue;
    out.added_tokens[static_cast<std::uint32_t>(id)] = {std::string(tokens.names[id]),
                                                        tokens.is_special(id)};
  }
  const std::array<std::pair<std::string_view, std::string_view>, 5> kNamed = {
      {{"bos", "bos_token"},
       {"eos", "eos_token"},
       {"unknown", "unk_token"},
       {"padding", "pad_token"},
       {"seperator", "sep_token"}}};
  for (const auto& [key, name] : kNamed) {
    const std::string full = "tokenizer.ggml." + std::string(key) + "_token_id";
    const auto id = TRY(gguf.count_if_there(full));
    if (id && *id < tokens.names.size()) {
      out.named_tokens[std::string(name)] = tokens.names[*id];
    }
  }
  TRY(add_stop_ids(gguf, tokens, out));
  TRY(add_defaults(gguf, out));
  out.chat_template = TRY(gguf.text_if_there("tokenizer.chat_template"));
  if (out.chat_template && out.chat_template->size() > kTemplateBytesMax) {
    return invalid_input(gguf.label() +
                         ": tokenizer.chat_template: " + std::to_string(out.chat_template->size()) +
                         " bytes, limit " + std::to_string(kTemplateBytesMax));
  }
  out.typescript_tools = TRY(formats::is_later_kimi(gguf));
  return out;
}

}  // namespace conclave::text
