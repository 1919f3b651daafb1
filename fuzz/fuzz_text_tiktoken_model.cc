// tiktoken.model: the input follows the 256 single bytes, or stands alone if it starts with '='.
#include "fuzz_text_support.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = conclave::text;
  const std::string_view input = text::as_text(data, size);
  const bool alone = input.starts_with('=');
  const text::FuzzFolder folder;
  folder.write("tiktoken.model",
               alone ? std::string(input.substr(1)) : text::byte_ranks() + std::string(input));
  folder.write("tokenizer_config.json", text::kFuzzTokenizerConfig);
  if (const auto model = text::TextModel::load(folder.path(), 1024)) text::exercise(*model);
  return 0;
}
