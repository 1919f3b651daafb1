// Makes the messages that clients send into those that chat templates expect.
#pragma once

#include <string_view>

#include "text/json_util.h"
#include "text/text.h"

namespace conclave::text {

// What a model's template wants to see. Read off its source: templates do not say.
struct MessageStyle {
  enum class Arguments { kAsSent, kObject, kString };
  Arguments arguments = Arguments::kAsSent;  // form of tool_call.function.arguments
  bool developer_role = false;               // else "developer" becomes "system"
  bool kimi_tool_ids = false;                // ids are functions.NAME:IDX
  bool think_tokens = false;                 // "</think>" is one token
  bool thinking_field = false;               // reasoning is `thinking` too: gpt-oss
};

MessageStyle message_style(std::string_view template_source);

// Checks shapes and limits (65,536 messages), and brings into one form: text parts to one string,
// `reasoning` to `reasoning_content`, "<think>...</think>" inside an assistant's content likewise,
// roles `developer` and `function`, arguments, and foreign tool ids.
Result<Json> prepare_messages(const Json& messages, const MessageStyle& style);

// Renames foreign ids of calls and of their results to functions.NAME:IDX, IDX counting all calls
// of the conversation from 0. Native ids stay. Models degrade on any other form.
void rename_tool_ids(Json& messages);

}  // namespace conclave::text
