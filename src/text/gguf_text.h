// The tokenizer that a GGUF file carries in its metadata, as Hugging Face's files say the same.
// docs/models.md 5.7, 6.
#pragma once

#include <string>

#include "formats/formats.h"
#include "text/checkpoint_text.h"

namespace conclave::text {

// A tokenizer.json. Errors name the file: no tokenizer, a kind of it that is not known.
Result<std::string> tokenizer_from_gguf(const formats::Gguf& gguf);

// Special tokens, stop tokens and the chat template.
Result<CheckpointText> checkpoint_text_from_gguf(const formats::Gguf& gguf);

}  // namespace conclave::text
