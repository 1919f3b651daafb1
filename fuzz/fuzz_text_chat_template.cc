// A chat template: any source compiles or gives an error, and renders within its limits.
#include "fuzz_text_support.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = conclave::text;
  const text::FuzzFolder folder;
  folder.write("tiktoken.model", text::byte_ranks());
  folder.write("tokenizer_config.json", text::kFuzzTokenizerConfig);
  folder.write("chat_template.jinja", text::as_text(data, size));
  const auto model = text::TextModel::load(folder.path(), text::kFuzzVocab);
  if (!model) return 0;
  const text::Json messages = text::Json::parse(R"([
      {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
      {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
        {"id": "functions.f:0", "type": "function",
         "function": {"name": "f", "arguments": {"a": [1, 2.5]}}}]},
      {"role": "tool", "tool_call_id": "functions.f:0", "content": "1"}])");
  const text::Json tools =
      text::Json::parse(R"([{"type": "function", "function": {"name": "f"}}])");
  static_cast<void>(model->render_chat({.messages = messages, .tools = tools}));
  return 0;
}
