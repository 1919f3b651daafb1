// The tokenizer of a checkpoint: tokens, their bytes, and which of them stand for control.
#pragma once

#include <conclave-text/src/lib.rs.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/checkpoint_text.h"
#include "text/text.h"

namespace conclave::text {

class Vocabulary {
 public:
  // kNotFound when `dir` holds neither tokenizer.json nor tiktoken.model.
  static Result<Vocabulary> load(const std::filesystem::path& dir, const CheckpointText& checkpoint,
                                 std::size_t size);

  std::size_t size() const { return size_; }
  const rust_bridge::Tokenizer& tokenizer() const { return *tokenizer_; }

  std::string_view bytes(TokenId id) const;
  std::optional<TokenId> special(std::string_view content) const;
  bool hidden(TokenId id) const;
  // Every added token, by id.
  std::span<const rust_bridge::AddedToken> added() const;

  Result<std::vector<TokenId>> encode(std::string_view text, Specials specials) const;

 private:
  Vocabulary(rust::Box<rust_bridge::Tokenizer> tokenizer, std::size_t size);

  rust::Box<rust_bridge::Tokenizer> tokenizer_;
  std::size_t size_;
  std::unordered_map<std::string, TokenId> specials_;
  std::vector<bool> hidden_;  // by id
};

// Ids that end an answer: generation_config, config, tokenizer_config, and the token that ends a
// turn in the families' templates.
std::vector<TokenId> find_stop_ids(const CheckpointText& checkpoint, const Vocabulary& vocabulary);

// Ids that no answer may hold: reserved and media tokens, the ends of a text, padding, unknown, and
// rows of the embedding without a token. Never a stop id.
std::vector<TokenId> find_banned_ids(const CheckpointText& checkpoint, const Vocabulary& vocabulary,
                                     std::span<const TokenId> stop_ids);

}  // namespace conclave::text
