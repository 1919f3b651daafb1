#include "server/chat_session.h"

#include <utility>

#include "base/check.h"

namespace conclave::server {
namespace {

// Clients were seen to give up after 20 s without a byte.
constexpr Duration kKeepAliveEvery = std::chrono::seconds(10);

}  // namespace

ChatSession::ChatSession(ChatMeta meta, Generation generation, bool stream,
                         std::shared_ptr<ResponseWriter> writer, Time now)
    : id_(meta.id),
      generation_(std::move(generation)),
      stream_(stream),
      writer_(std::move(writer)),
      chunks_(meta),
      answer_(std::move(meta)),
      started_at_(now),
      written_at_(now) {}

bool ChatSession::on_token(std::size_t choice, const engine::TokenEvent& token, Time now) {
  CHECK(choice < generation_.choices.size());
  if (stream_) begin(now);
  std::string bytes;
  for (const AnswerEvent& event : generation_.choices[choice].push(token)) {
    if (stream_) {
      bytes += chunks_.event(event);
    } else {
      answer_.add(event);
    }
  }
  if (!bytes.empty()) write(bytes, now);
  if (generation_.ended()) finish(now);
  return choice_ended(choice);
}

void ChatSession::on_admitted(Time now) {
  if (stream_) begin(now);
}

void ChatSession::on_tick(Time now) {
  if (!stream_ || now - written_at_ < kKeepAliveEvery) return;
  begin(now);
  write(ChatStream::keep_alive(), now);
}

void ChatSession::fail(const ApiError& error) {
  if (!begun_) return writer_->send(error_response(error));
  writer_->write(chunks_.error(error));
  writer_->end();
}

void ChatSession::begin(Time now) {
  if (std::exchange(begun_, true)) return;
  writer_->begin_stream(
      200, {{"Content-Type", "text/event-stream; charset=utf-8"}, {"Cache-Control", "no-cache"}});
  write(chunks_.begin(), now);
}

void ChatSession::write(const std::string& bytes, Time now) {
  written_at_ = now;
  writer_->write(bytes);
}

void ChatSession::finish(Time now) {
  if (!stream_) return writer_->send(json_response(200, answer_.finish(usage())));
  write(chunks_.end(usage()), now);
  writer_->end();
}

}  // namespace conclave::server
