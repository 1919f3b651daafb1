// One POST /v1/chat/completions from its first token to its last byte.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "server/api_error.h"
#include "server/chat_stream.h"
#include "server/generation.h"
#include "server/http_server.h"

namespace conclave::server {

class ChatSession {
 public:
  ChatSession(ChatMeta meta, Generation generation, bool stream,
              std::shared_ptr<ResponseWriter> writer, Time now);

  // A token of a choice that has not ended. True: the choice has ended with it.
  bool on_token(std::size_t choice, const engine::TokenEvent& token, Time now);
  // The worker has the request: a stream may show that it began.
  void on_admitted(Time now);
  // Keeps a silent stream's connection alive.
  void on_tick(Time now);
  // The answer cannot go on; nothing may follow.
  void fail(const ApiError& error);

  bool ended() const { return generation_.ended(); }
  bool choice_ended(std::size_t choice) const { return generation_.choices[choice].ended(); }
  Usage usage() const { return generation_.usage(); }
  const std::string& id() const { return id_; }
  Time started_at() const { return started_at_; }

 private:
  void begin(Time now);
  void write(const std::string& bytes, Time now);
  void finish(Time now);

  std::string id_;
  Generation generation_;
  bool stream_;
  std::shared_ptr<ResponseWriter> writer_;  // shared with the connection's answer
  ChatStream chunks_;
  ChatAnswer answer_;
  Time started_at_;
  Time written_at_;
  bool begun_ = false;  // the stream's head is out: errors are events now
};

}  // namespace conclave::server
