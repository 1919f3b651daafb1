// Answers of /v1/chat/completions: server-sent events or one JSON, from the same events. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/generate_request.h"

namespace conclave::server {

// The same in every chunk of an answer.
struct ChatMeta {
  std::string id;            // "chatcmpl-..."
  std::int64_t created = 0;  // Unix seconds
  std::string model;
  std::string fingerprint;  // build, model and layout: what "same seed, same tokens" depends on
  std::size_t n = 1;
  bool include_usage = false;
};

// Each function gives whole `data: ...` events, ready to be written.
class ChatStream {
 public:
  explicit ChatStream(ChatMeta meta) : meta_(std::move(meta)) {}

  std::string begin() const;  // one role chunk a choice
  std::string event(const AnswerEvent& event) const;
  std::string end(const Usage& usage) const;       // usage, if asked for, and [DONE]
  std::string error(const ApiError& error) const;  // the stream closes after it, without [DONE]
  static std::string keep_alive() { return ": keep-alive\n\n"; }

 private:
  Json chunk() const;
  std::string choice_chunk(std::size_t choice, Json delta, Json finish_reason,
                           const std::vector<LogprobEntry>& logprobs) const;

  ChatMeta meta_;
};

// Collects the events of an answer that is sent as a whole.
class ChatAnswer {
 public:
  explicit ChatAnswer(ChatMeta meta);
  void add(const AnswerEvent& event);
  Json finish(const Usage& usage) const;

 private:
  struct Call {
    std::string id;
    std::string name;
    std::string arguments;
  };
  struct Message {
    std::string reasoning;
    std::string content;
    std::vector<Call> calls;
    AnswerEnd end = AnswerEnd::kStop;
    Json logprobs = Json::array();
    bool has_logprobs = false;
  };
  static Json message_json(const Message& message);

  ChatMeta meta_;
  std::vector<Message> messages_;
};

}  // namespace conclave::server
