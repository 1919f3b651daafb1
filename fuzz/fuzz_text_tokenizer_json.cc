// tokenizer.json: any bytes load or give an error, and what loads encodes within its vocabulary.
#include "fuzz_text_support.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = conclave::text;
  const text::FuzzFolder folder;
  folder.write("tokenizer.json", text::as_text(data, size));
  if (const auto model = text::TextModel::load(folder.path(), 1024)) text::exercise(*model);
  return 0;
}
