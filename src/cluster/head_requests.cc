// Token logs: what clients have been told, and what rank 0's worker is told.
#include <utility>

#include "cluster/head_state.h"
#include "cluster/messages.h"

namespace conclave::cluster {

Result<void> Head::submit(Time, engine::Request request) {
  State& s = *state_;
  if (!s.failure.empty()) return unavailable(s.failure);
  if (s.short_for && *s.short_for >= s.options.short_limit) {
    return unavailable(s.shortage());
  }
  if (s.logs.size() >= s.options.requests_max) {
    return exhausted(std::to_string(s.logs.size()) + " requests are open; that is the limit");
  }
  const RequestId id = request.id;
  s.logs.open(std::move(request));
  if (s.can_admit()) s.send_admit(id, false);
  return {};
}

void Head::cancel(Time now, RequestId id) {
  State& s = *state_;
  TokenLog* log = s.logs.find(id);
  if (log == nullptr) return;
  if (log->attempt() > 0) {
    SendToWorker send;
    send.message.mutable_cancel()->set_request(id.value);
    send.message.mutable_cancel()->set_attempt(log->attempt());
    s.actions.push_back(std::move(send));
  }
  s.logs.close(id);
  s.reconcile(now);  // idle now, perhaps
}

// After a fresh epoch every open request; else those that came while no epoch was there.
void Head::State::admit_open(Time) {
  for (const RequestId id : logs.ids()) {
    const TokenLog* log = logs.find(id);
    if (epoch.fresh || log->attempt() == 0) send_admit(id, epoch.fresh && epoch.worker_ended);
  }
}

void Head::State::send_admit(RequestId id, bool blame_request) {
  TokenLog* log = logs.find(id);
  CHECK(log != nullptr);
  if (log->barren_attempts() >= options.barren_attempts_max) {
    return close_with(id, unavailable(std::to_string(log->barren_attempts()) +
                                      " workers ended while they worked on this request"));
  }
  SendToWorker send;
  *send.message.mutable_admit() = log->admit(blame_request);
  actions.push_back(std::move(send));
}

void Head::State::close_with(RequestId id, const Error& error) {
  if (logs.close(id)) actions.push_back(EmitFailure{id, error});
}

void Head::State::on_token(Time now, const wire::pb::Token& message) {
  const RequestId id{message.request()};
  TokenLog* log = logs.find(id);
  if (log == nullptr) return;  // cancelled meanwhile
  NodeState& head = nodes.at(kHeadNode);
  const auto distrust = [&](const std::string& why) {
    head.killed_life = head.report.worker_life();
    if (epoch.live) break_epoch(now, "the head's worker is wrong: " + why, true);
  };
  if (message.attempt() > log->attempt()) return distrust("a token of an attempt that never began");
  Result<engine::TokenEvent> event = from_message(message);
  if (!event) return distrust(event.error().message);
  switch (log->take(message.attempt(), message.index(), event.value().token)) {
    case TokenLog::Verdict::kStale:
      return;
    case TokenLog::Verdict::kGap:
      return distrust("token " + std::to_string(message.index()) + " came before token " +
                      std::to_string(log->tokens().size()));
    case TokenLog::Verdict::kTaken:
      barren_breaks = 0;
      break;
  }
  switch (event.value().finish) {
    case engine::FinishReason::kNone:
      break;
    case engine::FinishReason::kStop:
    case engine::FinishReason::kLength:
      logs.close(id);
      break;
    case engine::FinishReason::kCancelled:
      return close_with(id, unavailable("the worker dropped the request"));
    case engine::FinishReason::kError:
      return close_with(id, failure_of(message));
  }
  actions.push_back(EmitToken{std::move(event).value()});
}

void Head::on_worker(Time now, const wire::pb::FromWorker& message) {
  State& s = *state_;
  switch (message.body_case()) {
    case wire::pb::FromWorker::kToken:
      s.on_token(now, message.token());
      break;
    case wire::pb::FromWorker::kPrefill: {
      const wire::pb::Prefill& prefill = message.prefill();
      const RequestId id{prefill.request()};
      const TokenLog* log = s.logs.find(id);
      if (log == nullptr || log->attempt() != prefill.attempt()) return;
      s.actions.push_back(EmitPrefill{id, prefill.done(), prefill.total()});
      break;
    }
    case wire::pb::FromWorker::kStats:
      s.stats = from_message(message.stats());
      break;
    default:
      break;  // the node's
  }
  s.reconcile(now);
}

}  // namespace conclave::cluster
