#include "apps/synth_tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "apps/synth_model.h"
#include "base/check.h"
#include "base/rng.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kPieceBytesMax = 12;

struct Special {
  std::size_t offset;  // from the first special id
  std::string_view content;
  bool hidden = true;  // `special` in tokenizer_config.json: not shown to users
};
constexpr Special kSpecials[] = {
    {0, "[BOS]"},
    {1, "[EOS]"},
    {2, "<|im_end|>"},
    {3, "<|im_user|>"},
    {4, "<|im_assistant|>"},
    {6, "<|start_header_id|>"},
    {7, "<|end_header_id|>"},
    {9, "[EOT]"},
    {10, "<|im_system|>"},
    {11, "<|tool_calls_section_begin|>", false},
    {12, "<|tool_calls_section_end|>", false},
    {13, "<|tool_call_begin|>", false},
    {14, "<|tool_call_argument_begin|>", false},
    {15, "<|tool_call_end|>", false},
    {17, "<|im_middle|>"},
    {18, "<|media_begin|>"},
    {19, "<|media_content|>"},
    {20, "<|media_end|>"},
    {21, "<|media_pad|>"},
    {22, "<think>", false},
    {23, "</think>", false},
    {254, "[UNK]"},
    {255, "[PAD]"},
};

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      word <<= 8;
      if (i + k < bytes.size()) word |= static_cast<unsigned char>(bytes[i + k]);
    }
    const std::size_t digits = std::min<std::size_t>(bytes.size() - i, 3) + 1;
    for (std::size_t k = 0; k < 4; ++k) {
      text += k < digits ? kDigits[(word >> (18 - 6 * k)) & 63] : '=';
    }
  }
  return text;
}

// Pieces beyond the single bytes: letters and, at the start alone, a space, as the split pattern
// leaves them.
std::vector<std::string> invented_pieces(std::size_t count) {
  std::vector<std::string> starts = {" "};  // may begin a piece
  std::vector<std::string> middles;         // letters only
  for (char letter = 'a'; letter <= 'z'; ++letter) middles.emplace_back(1, letter);
  std::unordered_set<std::string> known(middles.begin(), middles.end());
  std::vector<std::string> pieces;
  SplitMix random(0);
  while (pieces.size() < count) {
    const bool spaced = random.next() % 3 == 0;
    const std::vector<std::string>& heads = spaced ? starts : middles;
    std::string piece = heads[random.next() % heads.size()];
    piece += middles[random.next() % middles.size()];
    if (piece.size() > kPieceBytesMax || !known.insert(piece).second) continue;
    (spaced ? starts : middles).push_back(piece);
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

}  // namespace

std::string synth_tiktoken(std::size_t vocab_size) {
  CHECK(vocab_size >= kSpecialTokens + kByteTokens);
  std::string text;
  for (std::size_t byte = 0; byte < kByteTokens; ++byte) {
    const char c = static_cast<char>(byte);
    text += fmt::format("{} {}\n", base64(std::string_view(&c, 1)), byte);
  }
  std::size_t rank = kByteTokens;
  for (const std::string& piece : invented_pieces(vocab_size - kSpecialTokens - kByteTokens)) {
    text += fmt::format("{} {}\n", base64(piece), rank++);
  }
  return text;
}

std::string synth_tokenizer_config(std::size_t vocab_size, std::size_t context) {
  const std::size_t first = vocab_size - kSpecialTokens;
  std::vector<std::pair<std::string, bool>> specials;
  for (std::size_t i = 0; i < kSpecialTokens; ++i) {
    specials.emplace_back(fmt::format("<|reserved_token_{}|>", first + i), true);
  }
  for (const Special& special : kSpecials) {
    specials[special.offset] = {std::string(special.content), special.hidden};
  }
  Json added = Json::object();
  for (std::size_t i = 0; i < kSpecialTokens; ++i) {
    Json token;
    token["content"] = specials[i].first;
    token["lstrip"] = false;
    token["normalized"] = false;
    token["rstrip"] = false;
    token["single_word"] = false;
    token["special"] = specials[i].second;
    added[fmt::format("{}", first + i)] = std::move(token);
  }
  Json config;
  config["added_tokens_decoder"] = std::move(added);
  config["bos_token"] = "[BOS]";
  config["eos_token"] = "<|im_end|>";
  config["pad_token"] = "[PAD]";
  config["unk_token"] = "[UNK]";
  config["model_max_length"] = context;
  config["tokenizer_class"] = "TikTokenTokenizer";
  return config.dump(1);
}

std::string synth_chat_template() {
  return R"({%- if tools -%}
<|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}<|im_end|>
{%- endif -%}
{%- for message in messages -%}
{%- set name = message.name or message.role -%}
{%- if message.role == 'user' -%}<|im_user|>{{ name }}<|im_middle|>
{%- elif message.role == 'assistant' -%}<|im_assistant|>{{ name }}<|im_middle|>
{%- else -%}<|im_system|>{{ name }}<|im_middle|>
{%- endif -%}
{%- if message.role == 'tool' -%}{{ '## Return of ' ~ message.tool_call_id ~ '\n' }}{%- endif -%}
{%- if message.content is string -%}{{ message.content }}
{%- elif message.content -%}
{%- for part in message.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- if message.tool_calls -%}<|tool_calls_section_begin|>
{%- for call in message.tool_calls -%}
<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>
{%- if call.function.arguments is string -%}{{ call.function.arguments }}
{%- else -%}{{ call.function.arguments | tojson }}
{%- endif -%}<|tool_call_end|>
{%- endfor -%}<|tool_calls_section_end|>
{%- endif -%}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}
)";
}

std::string synth_generation_config(std::size_t vocab_size) {
  const std::size_t first = vocab_size - kSpecialTokens;
  Json config;
  config["eos_token_id"] = Json::array({first + 2, first + 1});
  config["temperature"] = 1.0;
  return config.dump(1);
}

}  // namespace conclave::apps
