#include "cluster/trace_gather.h"

#include <algorithm>
#include <utility>

#include "cluster/trace_message.h"

namespace conclave::cluster {

std::uint64_t TraceGather::begin(Time now, std::size_t n_ranks, Done done) {
  if (questions_.size() >= kQuestionsMax) {
    done(trace_json({}));
    return 0;
  }
  const std::uint64_t id = next_++;
  questions_[id] = {
      .n_ranks = n_ranks, .deadline = now + kPatience, .done = std::move(done), .traces = {}};
  return id;
}

void TraceGather::on_trace(const wire::pb::Trace& trace) {
  const auto question = questions_.find(trace.id());
  if (question == questions_.end()) return;  // too late
  std::vector<wire::pb::Trace>& traces = question->second.traces;
  const bool again = std::ranges::any_of(
      traces, [&trace](const wire::pb::Trace& t) { return t.rank() == trace.rank(); });
  if (again) return;
  traces.push_back(trace);
  if (traces.size() == question->second.n_ranks) finish(question);
}

void TraceGather::on_tick(Time now) {
  for (auto question = questions_.begin(); question != questions_.end();) {
    const auto next = std::next(question);
    if (now >= question->second.deadline) finish(question);
    question = next;
  }
}

void TraceGather::finish(std::map<std::uint64_t, Question>::iterator question) {
  Question finished = std::move(question->second);
  questions_.erase(question);
  std::ranges::sort(finished.traces, {}, [](const wire::pb::Trace& t) { return t.rank(); });
  finished.done(trace_json(finished.traces));
}

}  // namespace conclave::cluster
