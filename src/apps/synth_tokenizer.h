// The tokenizer of a synthetic checkpoint, in Kimi's file formats (docs/models.md 6.1).
#pragma once

#include <cstddef>
#include <string>

namespace conclave::apps {

// tiktoken.model with `vocab_size - 256` ranks: the 256 bytes, then invented pieces of words, each
// the join of two earlier ones, so that every text encodes and every token can be reached.
std::string synth_tiktoken(std::size_t vocab_size);

// tokenizer_config.json with Kimi's special tokens on the last 256 ids.
std::string synth_tokenizer_config(std::size_t vocab_size, std::size_t context);

std::string synth_chat_template();
std::string synth_generation_config(std::size_t vocab_size);

}  // namespace conclave::apps
