#include "cluster/worker_loop.h"

#include <utility>

#include "cluster/messages.h"

namespace conclave::cluster {
namespace {

constexpr Duration kReportEvery = std::chrono::milliseconds(500);

}  // namespace

Error WorkerLoop::run() {
  for (;;) {
    if (const auto received = receive(); !received) return received.error();
    if (!engine_.idle()) step();
    add_reports();
    if (const auto sent = flush(); !sent) return sent.error();
  }
}

Result<void> WorkerLoop::receive() {
  const bool wait = engine_.idle();
  pulse_.busy = !wait;
  const auto messages = TRY(channel_.receive(wait));
  pulse_.busy = true;
  for (const wire::pb::ToWorker& message : messages) {
    TRY(handle(message));
    ++pulse_.progress;  // many admissions with a grammar each may take long together
  }
  return {};
}

Result<void> WorkerLoop::handle(const wire::pb::ToWorker& message) {
  switch (message.body_case()) {
    case wire::pb::ToWorker::kAdmit:
      return admit(message.admit());
    case wire::pb::ToWorker::kCancel: {
      const RequestId id{message.cancel().request()};
      engine_.cancel(id);
      open_.erase(id);
      return {};
    }
    case wire::pb::ToWorker::BODY_NOT_SET:
      return corrupt("the agent sent a message without a body");
  }
  return corrupt("the agent sent an unknown message");
}

Result<void> WorkerLoop::admit(const wire::pb::Admit& message) {
  engine::Request request = TRY(from_message(message));
  const RequestId id = request.id;
  const std::size_t index = request.generated.size();
  const std::uint64_t total = request.prompt.size() + index;
  if (const auto admitted = engine_.admit(std::move(request)); !admitted) {
    wire::pb::FromWorker refusal;
    *refusal.mutable_token() = failure_message(id, message.attempt(), index, admitted.error());
    outbox_.push_back(std::move(refusal));
    return {};
  }
  const Open open{.attempt = message.attempt()};
  open_[id] = open;
  add_prefill(id, open, 0, total);
  return {};
}

void WorkerLoop::step() {
  const auto events = engine_.step([this] { ++pulse_.progress; });
  for (const engine::TokenEvent& event : events) add_token(event);
}

void WorkerLoop::add_token(const engine::TokenEvent& event) {
  const auto place = open_.find(event.request);
  if (place == open_.end()) return;  // cancelled
  place->second.has_token = true;
  wire::pb::FromWorker message;
  *message.mutable_token() = to_message(event, place->second.attempt);
  outbox_.push_back(std::move(message));
  if (event.finish != engine::FinishReason::kNone) open_.erase(place);
}

void WorkerLoop::add_prefill(RequestId id, const Open& open, std::uint64_t done,
                             std::uint64_t total) {
  wire::pb::FromWorker message;
  wire::pb::Prefill* prefill = message.mutable_prefill();
  prefill->set_request(id.value);
  prefill->set_attempt(open.attempt);
  prefill->set_done(done);
  prefill->set_total(total);
  outbox_.push_back(std::move(message));
}

void WorkerLoop::add_reports() {
  const Time now = clock_.now();
  const bool due = !reported_at_ || now - *reported_at_ >= kReportEvery;
  if (!due && !engine_.idle()) return;
  reported_at_ = now;
  for (const auto& [id, open] : open_) {
    if (open.has_token) continue;
    if (const auto progress = engine_.prefill_progress(id)) {
      add_prefill(id, open, progress->first, progress->second);
    }
  }
  wire::pb::FromWorker message;
  *message.mutable_stats() = to_message(engine_.stats());
  outbox_.push_back(std::move(message));
}

Result<void> WorkerLoop::flush() {
  if (outbox_.empty()) return {};
  if (!channel_.send(outbox_)) return unavailable("the agent is gone");
  outbox_.clear();
  return {};
}

}  // namespace conclave::cluster
