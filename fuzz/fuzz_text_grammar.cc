// Grammars of clients: the first byte picks the kind, the rest is the source. Every token that the
// mask allows must be accepted.
#include <vector>

#include "fuzz_text_support.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = conclave::text;
  if (size == 0) return 0;
  static const text::TextModel model = text::byte_model("");
  auto matcher = model.grammar({.kind = static_cast<text::GrammarSpec::Kind>(data[0] % 4),
                                .source = std::string(text::as_text(data + 1, size - 1))});
  if (!matcher) return 0;
  std::vector<std::uint32_t> words((text::kFuzzVocab + 31) / 32);
  for (std::size_t step = 0; step < 16 && !matcher->finished(); ++step) {
    if (!matcher->fill_mask(words)) return 0;  // a limit of the library
    std::uint32_t id = 0;
    while (id < text::kFuzzVocab && (words[id / 32] >> (id % 32) & 1u) == 0) ++id;
    if (id == text::kFuzzVocab) return 0;
    CHECK(matcher->accept({id}).has_value());
  }
  return 0;
}
