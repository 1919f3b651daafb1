#include "text/vocabulary.h"

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>

#include "base/mapped_file.h"
#include "text/gguf_text.h"
#include "text/rust_call.h"

namespace conclave::text {
namespace {

constexpr std::size_t kTokenizerBytesMax = 128u << 20;
// Kimi's block of special tokens. Its files name only those in use.
constexpr std::uint32_t kTiktokenSpecials = 256;

// Every id from the first unused one on is a token, named in the files or reserved.
std::vector<rust_bridge::AddedToken> tiktoken_specials(const CheckpointText& checkpoint,
                                                       std::size_t vocab_size) {
  std::vector<rust_bridge::AddedToken> tokens;
  std::uint32_t first = 0;
  if (!checkpoint.added_tokens.empty()) first = checkpoint.added_tokens.begin()->first;
  const auto add = [&tokens](std::uint32_t id, const std::string& content, bool special) {
    rust_bridge::AddedToken token;
    token.id = id;
    token.content = rust::String::lossy(content);
    token.special = special;
    token.control = true;
    tokens.push_back(std::move(token));
  };
  for (const auto& [id, token] : checkpoint.added_tokens) add(id, token.content, token.special);
  for (std::uint32_t id = first; id - first < kTiktokenSpecials && id < vocab_size; ++id) {
    if (checkpoint.added_tokens.contains(id)) continue;
    add(id, "<|reserved_token_" + std::to_string(id) + "|>", true);
  }
  return tokens;
}

bool is_reserved_or_media(std::string_view content) {
  static constexpr std::array<std::string_view, 9> kMarks{"reserved",     "media_",    "vision_",
                                                          "image_pad",    "video_pad", "audio_",
                                                          "place▁holder", "▁pad▁",     "fim"};
  return std::any_of(kMarks.begin(), kMarks.end(), [content](std::string_view mark) {
    return content.find(mark) != std::string_view::npos;
  });
}

}  // namespace

Vocabulary::Vocabulary(rust::Box<rust_bridge::Tokenizer> tokenizer, std::size_t size)
    : tokenizer_(std::move(tokenizer)), size_(size), hidden_(size) {
  for (const rust_bridge::AddedToken& token : added()) {
    specials_.emplace(std::string(text_of(token.content)), TokenId{token.id});
    hidden_[token.id] = token.special;
  }
}

Result<Vocabulary> Vocabulary::load(const std::filesystem::path& dir,
                                    const CheckpointText& checkpoint, std::size_t size) {
  if (const auto gguf = TRY(formats::open_gguf(dir))) {
    const std::string made = TRY(tokenizer_from_gguf(*gguf));
    if (made.size() > kTokenizerBytesMax) {
      return invalid_input(gguf->label() + ": a tokenizer of " + std::to_string(made.size()) +
                           " bytes, limit " + std::to_string(kTokenizerBytesMax));
    }
    return Vocabulary(
        TRY(rust_call(dir.string(), [&] { return rust_bridge::load_hf(rust_bytes(made), size); })),
        size);
  }
  std::error_code error;
  const std::filesystem::path tiktoken = dir / "tiktoken.model";
  if (std::filesystem::exists(tiktoken, error)) {
    const std::string ranks = TRY(read_text_file(tiktoken, kTokenizerBytesMax));
    const auto specials = tiktoken_specials(checkpoint, size);
    return Vocabulary(TRY(rust_call(tiktoken.string(),
                                    [&] {
                                      return rust_bridge::load_tiktoken(
                                          rust_bytes(ranks), {specials.data(), specials.size()},
                                          size);
                                    })),
                      size);
  }
  const std::filesystem::path json = dir / "tokenizer.json";
  if (!std::filesystem::exists(json, error)) {
    return not_found(dir.string() + ": neither tokenizer.json nor tiktoken.model is there");
  }
  const std::string text = TRY(read_text_file(json, kTokenizerBytesMax));
  return Vocabulary(
      TRY(rust_call(json.string(), [&] { return rust_bridge::load_hf(rust_bytes(text), size); })),
      size);
}

std::string_view Vocabulary::bytes(TokenId id) const {
  return text_of(tokenizer_->token_bytes(id.value));
}

std::optional<TokenId> Vocabulary::special(std::string_view content) const {
  const auto found = specials_.find(std::string(content));
  if (found == specials_.end()) return std::nullopt;
  return found->second;
}

bool Vocabulary::hidden(TokenId id) const { return id.value < size_ && hidden_[id.value]; }

std::span<const rust_bridge::AddedToken> Vocabulary::added() const {
  const auto tokens = tokenizer_->added_tokens();
  return {tokens.data(), tokens.size()};
}

Result<std::vector<TokenId>> Vocabulary::encode(std::string_view text, Specials specials) const {
  const auto ids = TRY(rust_call("text", [&] {
    return tokenizer_->encode(rust_bytes(text), specials == Specials::kAllowed);
  }));
  std::vector<TokenId> out;
  out.reserve(ids.size());
  for (const std::uint32_t id : ids) out.push_back(TokenId{id});
  return out;
}

std::vector<TokenId> find_stop_ids(const CheckpointText& checkpoint, const Vocabulary& vocabulary) {
  std::vector<TokenId> ids;
  const auto add = [&](TokenId id) {
    if (id.value >= vocabulary.size()) return;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const std::uint32_t id : checkpoint.stop_ids) add(TokenId{id});
  const auto end = checkpoint.named_tokens.find("eos_token");
  if (end != checkpoint.named_tokens.end()) {
    if (const auto id = vocabulary.special(end->second)) add(*id);
  }
  for (const std::string_view turn_end :
       {"<|im_end|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>"}) {
    if (const auto id = vocabulary.special(turn_end)) add(*id);
  }
  return ids;
}

std::vector<TokenId> find_banned_ids(const CheckpointText& checkpoint, const Vocabulary& vocabulary,
                                     std::span<const TokenId> stop_ids) {
  std::vector<bool> banned(vocabulary.size());
  for (std::size_t id = 0; id < banned.size(); ++id) {
    banned[id] = vocabulary.bytes(TokenId{static_cast<std::uint32_t>(id)}).empty();
  }
  for (const rust_bridge::AddedToken& token : vocabulary.added()) {
    if (token.control && is_reserved_or_media(text_of(token.content))) banned[token.id] = true;
  }
  for (const std::string_view name : {"bos_token", "pad_token", "unk_token"}) {
    const auto content = checkpoint.named_tokens.find(std::string(name));
    if (content == checkpoint.named_tokens.end()) continue;
    if (const auto id = vocabulary.special(content->second)) banned[id->value] = true;
  }
  for (const TokenId id : stop_ids) banned[id.value] = false;
  std::vector<TokenId> ids;
  for (std::size_t id = 0; id < banned.size(); ++id) {
    if (banned[id]) ids.push_back(TokenId{static_cast<std::uint32_t>(id)});
  }
  return ids;
}

}  // namespace conclave::text
