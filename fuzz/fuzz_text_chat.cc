// Messages, tools and template arguments of a client: {"messages", "tools", "kwargs"}. Whatever
// they hold, the prompt has exactly the control tokens that the template wrote.
#include <algorithm>

#include "fuzz_text_support.h"

namespace {

constexpr std::string_view kTemplate =
    "{% for m in messages %}<|im_end|>{{ m.role }}{{ m.name }}{% if m.content is string %}"
    "{{ m.content }}{% elif m.content %}{% for p in m.content %}{{ p.text | trim }}{% endfor %}"
    "{% endif %}{{ m.reasoning_content }}{{ m.tool_call_id }}{{ m.tool_calls | tojson }}"
    "{% endfor %}{{ tools | tojson(sort_keys=true) }}{{ extra }}";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = conclave::text;
  static const text::TextModel model = text::byte_model(kTemplate);
  const auto input = text::Json::parse(text::as_text(data, size), nullptr, false);
  if (!input.is_object()) return 0;
  text::ChatPrompt prompt;
  if (input.contains("messages")) prompt.messages = input["messages"];
  if (input.contains("tools")) prompt.tools = input["tools"];
  if (input.contains("kwargs")) prompt.template_kwargs = input["kwargs"];
  const auto ids = model.render_chat(prompt);
  if (!ids) return 0;
  const auto control =
      std::count_if(ids->begin(), ids->end(), [](conclave::TokenId id) { return id.value >= 256; });
  CHECK(static_cast<std::size_t>(control) == prompt.messages.size());
  return 0;
}
