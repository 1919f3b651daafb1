#include "server/chat_stream.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace conclave::server {
namespace {

constexpr float kLogprobMin = -9999.0f;  // JSON has no minus infinity; OpenAI writes this

std::string sse(const Json& json) { return "data: " + dump(json) + "\n\n"; }

const char* finish_text(AnswerEnd end) {
  switch (end) {
    case AnswerEnd::kStop:
      return "stop";
    case AnswerEnd::kLength:
      return "length";
    case AnswerEnd::kToolCalls:
      return "tool_calls";
  }
  return "stop";
}

Json meta_json(const ChatMeta& meta, const char* object) {
  Json json = Json::object();
  json["id"] = meta.id;
  json["object"] = object;
  json["created"] = meta.created;
  json["model"] = meta.model;
  json["system_fingerprint"] = meta.fingerprint;
  return json;
}

// `bytes` says what `token` cannot: part of a code point becomes U+FFFD there.
Json token_json(const TokenText& token) {
  Json bytes = Json::array();
  for (const char c : token.bytes) bytes.push_back(static_cast<unsigned char>(c));
  Json json = Json::object();
  json["token"] = token.bytes;
  json["logprob"] = std::max(token.logprob, kLogprobMin);
  json["bytes"] = std::move(bytes);
  return json;
}

Json logprob_json(const LogprobEntry& entry) {
  Json json = token_json(entry.token);
  json["top_logprobs"] = Json::array();
  for (const TokenText& top : entry.top) json["top_logprobs"].push_back(token_json(top));
  return json;
}

Json usage_json(const Usage& usage) {
  Json json = Json::object();
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"] = Json{{"cached_tokens", 0}};
  json["completion_tokens_details"] = Json{{"reasoning_tokens", usage.reasoning_tokens}};
  return json;
}

// Two names for one thing: `reasoning_content` (DeepSeek, Vercel), `reasoning` (vLLM, Ollama).
void put_reasoning(Json& out, const std::string& text) {
  out["reasoning_content"] = text;
  out["reasoning"] = text;
}

// The id and the name come once; later pieces carry the index and more of the arguments.
Json tool_delta(const AnswerEvent& event) {
  Json call = Json::object();
  call["index"] = event.tool_index;
  if (event.kind == AnswerEvent::Kind::kToolBegin) {
    call["id"] = event.tool_id;
    call["type"] = "function";
    call["function"] = Json::object();
    call["function"]["name"] = event.tool_name;
    call["function"]["arguments"] = "";
  } else {
    call["function"] = Json{{"arguments", event.text}};
  }
  Json delta = Json::object();
  delta["tool_calls"] = Json::array({std::move(call)});
  return delta;
}

}  // namespace

// --- streams ----------------------------------------------------------------------------------

Json ChatStream::chunk() const { return meta_json(meta_, "chat.completion.chunk"); }

std::string ChatStream::choice_chunk(std::size_t choice, Json delta, Json finish_reason,
                                     const std::vector<LogprobEntry>& logprobs) const {
  Json entry = Json::object();
  entry["index"] = choice;
  entry["delta"] = std::move(delta);
  if (!logprobs.empty()) {
    Json content = Json::array();
    for (const LogprobEntry& logprob : logprobs) content.push_back(logprob_json(logprob));
    entry["logprobs"] = Json{{"content", std::move(content)}};
  }
  entry["finish_reason"] = std::move(finish_reason);
  Json json = chunk();
  json["choices"] = Json::array({std::move(entry)});
  if (meta_.include_usage) json["usage"] = nullptr;
  return sse(json);
}

std::string ChatStream::begin() const {
  std::string out;
  for (std::size_t i = 0; i < meta_.n; ++i) {
    Json delta = Json::object();
    delta["role"] = "assistant";
    delta["content"] = "";
    out += choice_chunk(i, std::move(delta), nullptr, {});
  }
  return out;
}

std::string ChatStream::event(const AnswerEvent& event) const {
  Json delta = Json::object();
  Json finish = nullptr;
  switch (event.kind) {
    case AnswerEvent::Kind::kReasoning:
      put_reasoning(delta, event.text);
      break;
    case AnswerEvent::Kind::kText:
      delta["content"] = event.text;
      break;
    case AnswerEvent::Kind::kToolBegin:
    case AnswerEvent::Kind::kToolArguments:
      delta = tool_delta(event);
      break;
    case AnswerEvent::Kind::kEnd:
      finish = finish_text(event.end);
      break;
  }
  return choice_chunk(event.choice, std::move(delta), std::move(finish), event.logprobs);
}

std::string ChatStream::end(const Usage& usage) const {
  std::string out;
  if (meta_.include_usage) {
    Json json = chunk();
    json["choices"] = Json::array();
    json["usage"] = usage_json(usage);
    out += sse(json);
  }
  return out + "data: [DONE]\n\n";
}

std::string ChatStream::error(const ApiError& error) const { return sse(error_json(error)); }

// --- whole answers ----------------------------------------------------------------------------

ChatAnswer::ChatAnswer(ChatMeta meta) : meta_(std::move(meta)), messages_(meta_.n) {}

void ChatAnswer::add(const AnswerEvent& event) {
  CHECK(event.choice < messages_.size());
  Message& message = messages_[event.choice];
  for (const LogprobEntry& logprob : event.logprobs) {
    message.logprobs.push_back(logprob_json(logprob));
    message.has_logprobs = true;
  }
  switch (event.kind) {
    case AnswerEvent::Kind::kReasoning:
      message.reasoning += event.text;
      return;
    case AnswerEvent::Kind::kText:
      message.content += event.text;
      return;
    case AnswerEvent::Kind::kToolBegin:
      message.calls.push_back({.id = event.tool_id, .name = event.tool_name, .arguments = {}});
      return;
    case AnswerEvent::Kind::kToolArguments:
      CHECK(!message.calls.empty());
      message.calls.back().arguments += event.text;
      return;
    case AnswerEvent::Kind::kEnd:
      message.end = event.end;
      return;
  }
}

Json ChatAnswer::message_json(const Message& message) {
  Json json = Json::object();
  json["role"] = "assistant";
  const bool only_calls = message.content.empty() && !message.calls.empty();
  json["content"] = only_calls ? Json(nullptr) : Json(message.content);
  if (!message.reasoning.empty()) put_reasoning(json, message.reasoning);
  if (message.calls.empty()) return json;
  json["tool_calls"] = Json::array();
  for (const Call& call : message.calls) {
    Json entry = Json::object();
    entry["id"] = call.id;
    entry["type"] = "function";
    entry["function"] = Json::object();
    entry["function"]["name"] = call.name;
    entry["function"]["arguments"] = call.arguments;
    json["tool_calls"].push_back(std::move(entry));
  }
  return json;
}

Json ChatAnswer::finish(const Usage& usage) const {
  Json json = meta_json(meta_, "chat.completion");
  json["choices"] = Json::array();
  for (std::size_t i = 0; i < messages_.size(); ++i) {
    const Message& message = messages_[i];
    Json choice = Json::object();
    choice["index"] = i;
    choice["message"] = message_json(message);
    choice["logprobs"] = message.has_logprobs ? Json{{"content", message.logprobs}} : Json(nullptr);
    choice["finish_reason"] = finish_text(message.end);
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = usage_json(usage);
  return json;
}

}  // namespace conclave::server
