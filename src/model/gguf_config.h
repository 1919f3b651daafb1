// What the metadata of a GGUF file say about the model, as its config.json would say it.
// docs/models.md 5.7.
#pragma once

#include <string>

#include "formats/formats.h"
#include "model/description.h"

namespace conclave::model {

// A config.json with the same meaning. Errors name file and key.
Result<std::string> config_from_gguf(const formats::Gguf& gguf);

// The same, parsed, with the names that Checkpoint gives GGUF's tensors.
Result<Description> describe_gguf(const formats::Gguf& gguf);

}  // namespace conclave::model
