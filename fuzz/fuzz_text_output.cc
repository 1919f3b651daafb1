// The output parser on any sequence of tokens: text stays whole code points, calls nest properly,
// and every argument belongs to the call that is open. Two bytes of input make one token.
#include <algorithm>
#include <span>
#include <vector>

#include "fuzz_text_support.h"

namespace {

using Kind = conclave::text::OutputEvent::Kind;

class EventChecker {
 public:
  void check(const std::vector<conclave::text::OutputEvent>& events) {
    for (const auto& event : events) {
      conclave::text::Utf8Stream stream;
      CHECK(stream.push(event.text) == event.text);
      if (event.kind == Kind::kToolBegin) {
        CHECK(!open_ && event.tool_index == n_calls_++);
        open_ = true;
      } else if (event.kind == Kind::kToolArguments || event.kind == Kind::kToolEnd) {
        CHECK(open_ && event.tool_index == n_calls_ - 1);
        open_ = event.kind == Kind::kToolArguments;
      } else {
        CHECK(!open_);
      }
    }
  }
  bool open() const { return open_; }
  int n_calls() const { return n_calls_; }

 private:
  bool open_ = false;
  int n_calls_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = conclave::text;
  static const text::TextModel models[] = {text::byte_model(""),
                                           text::byte_model("", text::kFuzzTaggedConfig),
                                           text::byte_model("", text::kFuzzHarmonyConfig)};
  const text::TextModel& model = models[size / 4 % 3];
  std::vector<conclave::TokenId> ids;
  for (std::size_t i = 0; i + 1 < size; i += 2) {
    const std::uint32_t number = data[i] + 256u * data[i + 1];
    ids.push_back({static_cast<std::uint32_t>(number % text::kFuzzVocab)});
  }
  const std::size_t n_prompt = std::min<std::size_t>(ids.size(), size % 4);
  const std::span<const conclave::TokenId> all(ids);
  text::OutputParser parser = model.output_parser(all.first(n_prompt));
  EventChecker checker;
  for (const conclave::TokenId id : all.subspan(n_prompt)) checker.check(parser.push(id));
  checker.check(parser.finish());
  CHECK(!checker.open() && checker.n_calls() == parser.tool_calls());
  return 0;
}
