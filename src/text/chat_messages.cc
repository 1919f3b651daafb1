#include "text/chat_messages.h"

#include <algorithm>
#include <string>
#include <utility>

namespace conclave::text {
namespace {

constexpr std::size_t kMessagesMax = 65'536;
constexpr std::string_view kThinkBegin = "<think>";
constexpr std::string_view kThinkEnd = "</think>";

bool contains_any(std::string_view text, std::initializer_list<std::string_view> needles) {
  return std::any_of(needles.begin(), needles.end(), [text](std::string_view needle) {
    return text.find(needle) != std::string_view::npos;
  });
}

// [{type: text, text: ..}, ..] to one string, where no other kind of part is among them.
void join_text_parts(Json& message) {
  const auto content = message.find("content");
  if (content == message.end() || !content->is_array()) return;
  std::string text;
  for (const Json& part : *content) {
    if (string_member(part, "type") != "text") return;
    text += string_member(part, "text");
  }
  *content = text;
}

// Moves "<think>reasoning</think>" from an assistant's content to where templates look for it.
void split_reasoning(Json& message) {
  const auto content = message.find("content");
  if (content == message.end() || !content->is_string()) return;
  const std::string text = content->get<std::string>();
  const std::size_t end = text.rfind(kThinkEnd);
  if (end == std::string::npos || message.contains("reasoning_content")) return;
  std::size_t begin = text.find(kThinkBegin);
  begin = begin == std::string::npos || begin > end ? 0 : begin + kThinkBegin.size();
  std::string answer = text.substr(end + kThinkEnd.size());
  answer.erase(0, std::min(answer.find_first_not_of('\n'), answer.size()));
  *content = answer;
  message["reasoning_content"] = text.substr(begin, end - begin);
}

void shape_arguments(Json& function, MessageStyle::Arguments wanted) {
  const auto arguments = function.find("arguments");
  if (arguments == function.end()) return;
  if (wanted == MessageStyle::Arguments::kString && !arguments->is_string()) {
    *arguments = python_json(*arguments);
  }
  if (wanted == MessageStyle::Arguments::kObject && arguments->is_string()) {
    const std::string text = arguments->get<std::string>();
    Json parsed = Json::parse(text.empty() ? "{}" : text, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object() && !nests_deeper(parsed, kJsonDepthMax / 2)) {
      *arguments = std::move(parsed);
    }
  }
}

Result<void> check_tool_calls(const Json& message, const std::string& where) {
  const Json* calls = member(message, "tool_calls");
  if (calls == nullptr || calls->is_null()) return {};
  if (!calls->is_array()) return invalid_input(where + ".tool_calls: expected an array");
  for (const Json& call : *calls) {
    const Json* function = member(call, "function");
    if (function == nullptr || string_member(*function, "name").empty()) {
      return invalid_input(where + ".tool_calls: every call needs function.name");
    }
  }
  return {};
}

Result<void> prepare_message(Json& message, const std::string& where, const MessageStyle& style) {
  if (!message.is_object()) return invalid_input(where + ": expected an object");
  std::string role = string_member(message, "role");
  if (role.empty()) return invalid_input(where + ".role: expected a string");
  if (role == "function") role = "tool";
  if (role == "developer" && !style.developer_role) role = "system";
  message["role"] = role;
  TRY(check_tool_calls(message, where));
  join_text_parts(message);
  const Json* content = member(message, "content");
  const bool empty = content == nullptr || content->is_null();
  if (role != "assistant") {
    if (empty) message["content"] = "";
    return {};
  }
  if (const Json* reasoning = member(message, "reasoning");
      reasoning != nullptr && reasoning->is_string() && !message.contains("reasoning_content")) {
    message["reasoning_content"] = Json(*reasoning);
  }
  if (style.think_tokens) split_reasoning(message);
  if (style.thinking_field && message.contains("reasoning_content") &&
      !message.contains("thinking")) {
    message["thinking"] = Json(message["reasoning_content"]);
  }
  if (const auto calls = message.find("tool_calls"); calls != message.end() && calls->is_array()) {
    for (Json& call : *calls) shape_arguments(call["function"], style.arguments);
  }
  return {};
}

bool is_native_id(std::string_view id, std::string_view name) {
  constexpr std::string_view kPrefix = "functions.";
  const std::size_t colon = id.rfind(':');
  if (!id.starts_with(kPrefix) || colon == std::string_view::npos || colon < kPrefix.size()) {
    return false;
  }
  const std::string_view digits = id.substr(colon + 1);
  return id.substr(kPrefix.size(), colon - kPrefix.size()) == name && !digits.empty() &&
         std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A call whose result has not come yet.
struct PendingCall {
  std::string sent_id;
  std::string name;
  std::string native_id;
};

void name_calls(Json& calls, std::size_t& n_calls, std::vector<PendingCall>& pending) {
  for (Json& call : calls) {
    const std::string sent = string_member(call, "id");
    const std::string name = string_member(call["function"], "name");
    std::string native = sent;
    if (!is_native_id(sent, name)) native = "functions." + name + ":" + std::to_string(n_calls);
    call["id"] = native;
    pending.push_back({sent, name, native});
    ++n_calls;
  }
}

// By id; results without one go to the first open call, of their name if they have one.
void name_result(Json& message, std::vector<PendingCall>& pending) {
  const std::string sent = string_member(message, "tool_call_id");
  const std::string name = string_member(message, "name");
  const auto call = std::find_if(pending.begin(), pending.end(), [&](const PendingCall& open) {
    return sent.empty() ? name.empty() || open.name == name : open.sent_id == sent;
  });
  if (call == pending.end()) return;
  message["tool_call_id"] = call->native_id;
  pending.erase(call);
}

}  // namespace

MessageStyle message_style(std::string_view source) {
  MessageStyle style;
  style.developer_role = contains_any(source, {"developer"});
  style.thinking_field = contains_any(source, {"message.thinking"});
  if (contains_any(source, {"arguments is string", "arguments'] is string"})) {
    style.arguments = MessageStyle::Arguments::kAsSent;
  } else if (contains_any(source, {"arguments|tojson", "arguments | tojson", "arguments.items",
                                   "arguments|items", "arguments | items", "_args.items"})) {
    style.arguments = MessageStyle::Arguments::kObject;
  } else {
    style.arguments = MessageStyle::Arguments::kString;
  }
  return style;
}

Result<Json> prepare_messages(const Json& messages, const MessageStyle& style) {
  if (!messages.is_array()) return invalid_input("messages: expected an array");
  if (messages.size() > kMessagesMax) {
    return exhausted("messages: " + std::to_string(messages.size()) + ", at most " +
                     std::to_string(kMessagesMax));
  }
  if (nests_deeper(messages, kJsonDepthMax)) {
    return invalid_input("messages: nested deeper than " + std::to_string(kJsonDepthMax));
  }
  Json prepared = messages;
  for (std::size_t i = 0; i < prepared.size(); ++i) {
    TRY(prepare_message(prepared[i], "messages[" + std::to_string(i) + "]", style));
  }
  if (style.kimi_tool_ids) rename_tool_ids(prepared);
  return prepared;
}

void rename_tool_ids(Json& messages) {
  std::size_t n_calls = 0;
  std::vector<PendingCall> pending;
  for (Json& message : messages) {
    const std::string role = string_member(message, "role");
    if (role == "tool") {
      name_result(message, pending);
    } else if (role == "assistant") {
      const auto calls = message.find("tool_calls");
      if (calls == message.end() || !calls->is_array()) continue;
      pending.clear();  // a new turn may use the same foreign ids again
      name_calls(*calls, n_calls, pending);
    }
  }
}

}  // namespace conclave::text
