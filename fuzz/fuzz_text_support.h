// What the text fuzzers share: checkpoint folders made of untrusted files.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "base/check.h"
#include "text/text.h"

namespace conclave::text {

// A folder under the system's temporary folder, removed at the end.
class FuzzFolder {
 public:
  FuzzFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "conclave_fuzz_XXXXXX").string();
    CHECK(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  FuzzFolder(const FuzzFolder&) = delete;
  FuzzFolder& operator=(const FuzzFolder&) = delete;
  ~FuzzFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }

  const std::filesystem::path& path() const { return path_; }
  void write(std::string_view name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary | std::ios::trunc) << text;
  }

 private:
  std::filesystem::path path_;
};

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// 256 single bytes in base64, ids 0 to 255: the least that tiktoken.model may hold.
inline std::string byte_ranks() {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    out += kDigits[byte >> 2];
    out += kDigits[(byte & 3) << 4];
    out += "== " + std::to_string(byte) + "\n";
  }
  return out;
}

inline constexpr std::size_t kFuzzVocab = 280;

// Kimi's control tokens from id 256 on.
inline constexpr std::string_view kFuzzTokenizerConfig = R"({"added_tokens_decoder": {
  "256": {"content": "[EOS]", "special": true},
  "257": {"content": "<|im_end|>", "special": true},
  "258": {"content": "<think>"}, "259": {"content": "</think>"},
  "260": {"content": "<|tool_calls_section_begin|>"},
  "261": {"content": "<|tool_calls_section_end|>"},
  "262": {"content": "<|tool_call_begin|>"},
  "263": {"content": "<|tool_call_argument_begin|>"},
  "264": {"content": "<|tool_call_end|>"}}, "eos_token": "<|im_end|>"})";

// The tags of Qwen and GLM.
inline constexpr std::string_view kFuzzTaggedConfig = R"({"added_tokens_decoder": {
  "256": {"content": "[EOS]", "special": true},
  "257": {"content": "<|im_end|>", "special": true},
  "258": {"content": "<think>"}, "259": {"content": "</think>"},
  "260": {"content": "<tool_call>"}, "261": {"content": "</tool_call>"},
  "262": {"content": "<arg_key>"}, "263": {"content": "</arg_key>"},
  "264": {"content": "<arg_value>"}, "265": {"content": "</arg_value>"},
  "266": {"content": "<function=f>"}, "267": {"content": "<parameter=a>"},
  "268": {"content": "</parameter>"}}, "eos_token": "<|im_end|>"})";

// gpt-oss's.
inline constexpr std::string_view kFuzzHarmonyConfig = R"({"added_tokens_decoder": {
  "256": {"content": "[EOS]", "special": true},
  "257": {"content": "<|start|>", "special": true},
  "258": {"content": "<|end|>", "special": true},
  "259": {"content": "<|message|>", "special": true},
  "260": {"content": "<|channel|>", "special": true},
  "261": {"content": "<|constrain|>", "special": true},
  "262": {"content": "<|return|>", "special": true},
  "263": {"content": "<|call|>", "special": true},
  "264": {"content": " to=functions.f"}, "265": {"content": "analysis"}},
  "eos_token": "<|return|>"})";

inline TextModel byte_model(std::string_view chat_template,
                            std::string_view config = kFuzzTokenizerConfig) {
  const FuzzFolder folder;
  folder.write("tiktoken.model", byte_ranks());
  folder.write("tokenizer_config.json", config);
  folder.write("chat_template.jinja", chat_template);
  auto model = TextModel::load(folder.path(), kFuzzVocab);
  CHECK(model.has_value());
  return std::move(model).value();
}

// Uses what was loaded from an untrusted file.
inline void exercise(const TextModel& model) {
  for (const Specials specials : {Specials::kPlain, Specials::kAllowed}) {
    const auto ids = model.encode("Hello wörld 123\n\n <|im_end|> 中文 😀", specials);
    if (!ids) continue;
    for (const TokenId id : *ids) CHECK(id.value < model.vocab_size());
    static_cast<void>(model.decode(*ids, true));
  }
}

}  // namespace conclave::text
