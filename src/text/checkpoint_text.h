// What a checkpoint folder's JSON files say about text, before any tokenizer is built.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "text/json_util.h"
#include "text/text.h"

namespace conclave::text {

inline constexpr std::size_t kTemplateBytesMax = std::size_t{1} << 20;

struct DeclaredToken {
  std::string content;
  bool special = true;  // hidden from users
};

struct CheckpointText {
  // tokenizer_config.json: added_tokens_decoder, by id.
  std::map<std::uint32_t, DeclaredToken> added_tokens;
  // "bos_token", "eos_token", ... : the strings that templates use.
  std::map<std::string, std::string> named_tokens;
  // eos_token_id of generation_config.json and config.json, in that order, doubles left in.
  std::vector<std::uint32_t> stop_ids;
  Json generation_defaults = Json::object();
  std::optional<std::string> chat_template;
  bool typescript_tools = false;  // Kimi K2.5 and later
};

// Of a folder, or of a GGUF file. Errors name the file. Files that are absent add nothing.
Result<CheckpointText> read_checkpoint_text(const std::filesystem::path& dir);

}  // namespace conclave::text
