#include "cluster/worker.h"

#include <algorithm>
#include <utility>

#include "cluster/facts.h"
#include "cluster/messages.h"
#include "cluster/trace_message.h"

namespace conclave::cluster {
namespace {

using collective::Broken;

// The epoch that an assignment asks for; 0: none.
std::uint32_t epoch_of(const wire::pb::Assignment& assignment) {
  return assignment.has_epoch() ? assignment.epoch().epoch() : 0;
}

Result<transport::GroupSpec> spec_of(const wire::pb::Assignment& assignment) {
  const wire::pb::Epoch& epoch = assignment.epoch();
  const auto n = static_cast<std::size_t>(epoch.ranks_size());
  if (n == 0 || n > transport::kRanksMax || epoch.rank() >= n) {
    return corrupt("epoch: rank " + std::to_string(epoch.rank()) + " of " + std::to_string(n));
  }
  transport::GroupSpec spec;
  spec.cluster = assignment.head();
  spec.epoch = epoch.epoch();
  spec.rank = static_cast<transport::Rank>(epoch.rank());
  for (const wire::pb::Endpoint& endpoint : epoch.ranks()) {
    spec.ranks.push_back(TRY(from_message(endpoint)));
  }
  return spec;
}

Result<std::vector<collective::VirtualRank>> virtual_ranks_of(
    const wire::pb::Assignment& assignment) {
  const wire::pb::Layout& layout = assignment.layout();
  const wire::pb::Epoch& epoch = assignment.epoch();
  if (epoch.computed_by_size() != layout.virtual_ranks_size() || epoch.layout() != layout.id()) {
    return corrupt("epoch: it is of another layout");
  }
  std::vector<collective::VirtualRank> ranks;
  for (int v = 0; v < layout.virtual_ranks_size(); ++v) {
    ranks.push_back({.group = static_cast<std::uint16_t>(layout.virtual_ranks(v).group()),
                     .rank = static_cast<transport::Rank>(epoch.computed_by(v))});
  }
  TRY(collective::check_layout(ranks, static_cast<std::size_t>(epoch.ranks_size())));
  return ranks;
}

}  // namespace

// NOLINTNEXTLINE(readability-function-size): each stands for something else that a test replaces
Worker::Worker(AgentLink& link, transport::Fabric& fabric, ModelHost& host, WorkerPulse& pulse,
               const Clock& clock, const engine::EngineOptions& options, const WorkerLimits& limits)
    : link_(link),
      fabric_(fabric),
      host_(host),
      pulse_(pulse),
      clock_(clock),
      options_(options),
      limits_(limits) {}

Worker::~Worker() = default;

Error Worker::run() {
  for (;;) {
    const bool can_work = in_group() && (!is_first() || !engine_->idle());
    if (const auto taken = take_messages(!can_work); !taken) return taken.error();
    follow_assignment();
    work();
    add_reports();
    if (const auto sent = flush(); !sent) return sent.error();
  }
}

// --- the agent --------------------------------------------------------------------------------

Result<void> Worker::take_messages(bool wait) {
  if (agent_error_) return *agent_error_;
  std::vector<wire::pb::ToWorker> messages = std::exchange(inbox_, {});
  pulse_.busy = !wait || !messages.empty();
  for (wire::pb::ToWorker& message : TRY(link_.receive(wait && messages.empty()))) {
    messages.push_back(std::move(message));
  }
  pulse_.busy = true;
  for (const wire::pb::ToWorker& message : messages) {
    TRY(handle(message));
    ++pulse_.progress;  // many admissions with a grammar each may take long together
  }
  return {};
}

bool Worker::interrupted() {
  Result<std::vector<wire::pb::ToWorker>> messages = link_.receive(false);
  if (!messages) {
    agent_error_ = messages.error();
    return join_interrupted_ = true;
  }
  bool over = false;
  for (wire::pb::ToWorker& message : *messages) {
    if (message.has_trace()) {  // at once: an idle rank waits here for long
      add_trace(message.trace());
      static_cast<void>(flush());  // run() sees the same
      continue;
    }
    // What to hold has nothing to do with the step, and an idle rank waits for one for long.
    if (message.has_assignment()) host_.want(message.assignment());
    over = over || (message.has_assignment() && member_ &&
                    epoch_of(message.assignment()) != member_->epoch.epoch());
    inbox_.push_back(std::move(message));
  }
  join_interrupted_ = join_interrupted_ || over;
  return over;
}

Result<void> Worker::handle(const wire::pb::ToWorker& message) {
  switch (message.body_case()) {
    case wire::pb::ToWorker::kAdmit:
      admit(message.admit());
      return {};
    case wire::pb::ToWorker::kCancel: {
      const RequestId id{message.cancel().request()};
      if (engine_) engine_->cancel(id);
      open_.erase(id);
      return {};
    }
    case wire::pb::ToWorker::kAssignment:
      // Another head's epochs count anew.
      if (assignment_ && assignment_->head() != message.assignment().head()) tried_epoch_ = 0;
      assignment_ = message.assignment();
      assignment_is_new_ = true;
      // At once: requests that follow this message belong to the new epoch.
      follow_assignment();
      return {};
    case wire::pb::ToWorker::kTrace:
      add_trace(message.trace());
      return {};
    case wire::pb::ToWorker::BODY_NOT_SET:
      return corrupt("the agent sent a message without a body");
  }
  return corrupt("the agent sent an unknown message");
}

// --- epochs -----------------------------------------------------------------------------------

void Worker::follow_assignment() {
  if (!assignment_ || !std::exchange(assignment_is_new_, false)) return;
  host_.want(*assignment_);
  const std::uint32_t wanted = epoch_of(*assignment_);
  if (member_ && member_->epoch.epoch() != wanted) leave();
  if (wanted != 0 && wanted != tried_epoch_) join(assignment_->epoch());
}

void Worker::leave() {
  if (engine_) engine_->set_group(nullptr, {});
  member_.reset();
  pulse_.waiting_for = -1;
}

void Worker::join(const wire::pb::Epoch& epoch) {
  tried_epoch_ = epoch.epoch();
  absent_.reset();
  join_interrupted_ = false;
  if (epoch.fresh()) drop_requests();
  const Result<void> joined = try_join(epoch);
  if (!joined) {
    member_.reset();
    return report_unjoined(epoch.epoch(), joined.error());
  }
  wire::pb::FromWorker message;
  message.mutable_joined()->set_epoch(epoch.epoch());
  outbox_.push_back(std::move(message));
  static_cast<void>(flush());  // run() sees the same
}

Result<void> Worker::try_join(const wire::pb::Epoch& epoch) {
  std::vector<collective::VirtualRank> virtual_ranks = TRY(virtual_ranks_of(*assignment_));
  const transport::GroupSpec spec = TRY(spec_of(*assignment_));
  std::vector<std::size_t> own;
  for (std::size_t v = 0; v < virtual_ranks.size(); ++v) {
    if (virtual_ranks[v].rank == spec.rank) own.push_back(v);
  }
  backend::Backend* backend = TRY(host_.activate(own));
  member_ = std::make_unique<Membership>();
  member_->epoch = epoch;
  if (spec.ranks.size() > 1) {
    member_->transport = TRY(fabric_.join(spec, clock_.now() + limits_.join_limit, this));
  }
  member_->backend = backend;
  engine::Division division;
  if (virtual_ranks.size() > 1 || spec.ranks.size() > 1) {
    member_->group = std::make_unique<collective::Group>(
        member_->transport.get(), clock_, std::move(virtual_ranks),
        collective::GroupOptions{.hidden_size = backend->config().hidden_size,
                                 .direct_bytes_max = limits_.direct_bytes_max,
                                 .wait_limit = limits_.wait_limit,
                                 .waiting_for = &pulse_.waiting_for});
    division = host_.division();
    TRY(engine::check_division(division, *member_->group, *backend));
  }
  if (!trace_) {
    trace_ = std::make_unique<engine::StepTrace>(clock_, backend->config().n_layers,
                                                 backend->config().n_experts);
  }
  if (spec.rank != 0) {
    member_->ranks = {
        .group = member_->group.get(), .division = std::move(division), .trace = trace_.get()};
    return {};
  }
  if (engine_backend_ != backend) {  // another layout: nothing of the old one can go on
    engine_.reset();
    open_.clear();
    engine_backend_ = backend;
  }
  if (!engine_) engine_ = std::make_unique<engine::Engine>(*backend, host_.text(), options_);
  engine_->set_group(member_->group.get(), std::move(division));
  engine_->set_trace(trace_.get());
  return {};
}

void Worker::report_broken(const std::string& reason) {
  static const std::optional<Broken> kNothing;
  const std::optional<Broken>& broken = member_->group ? member_->group->broken() : kNothing;
  wire::pb::FromWorker message;
  wire::pb::Broken* out = message.mutable_broken();
  out->set_epoch(member_->epoch.epoch());
  out->set_kind(static_cast<std::uint32_t>(broken ? broken->kind : Broken::Kind::kProtocol));
  out->set_peer(broken ? broken->peer : transport::kRanksMax);
  out->set_reason(broken ? broken->reason : reason);
  outbox_.push_back(std::move(message));
  member_->broken = true;
  pulse_.waiting_for = -1;
  // The others of this epoch see the connection end, and stop waiting too.
  if (engine_) engine_->set_group(nullptr, {});
  member_->ranks = {};
  member_->group.reset();
  member_->transport.reset();
}

// Without a peer that was waited for the reason is this rank's own.
void Worker::report_unjoined(std::uint32_t epoch, const Error& error) {
  wire::pb::FromWorker message;
  wire::pb::Broken* out = message.mutable_broken();
  out->set_epoch(epoch);
  const auto kind = join_interrupted_ ? Broken::Kind::kInterrupted : Broken::Kind::kLate;
  out->set_kind(static_cast<std::uint32_t>(kind));
  out->set_peer(absent_.value_or(transport::kRanksMax));
  out->set_reason(error.message);
  outbox_.push_back(std::move(message));
}

// --- work -------------------------------------------------------------------------------------

void Worker::work() {
  if (!in_group()) return;
  if (!is_first()) return follow();
  if (!engine_->idle()) step();
}

void Worker::step() {
  Result<std::vector<engine::TokenEvent>> events = engine_->step([this] { ++pulse_.progress; });
  if (!events) return report_broken(events.error().message);
  for (const engine::TokenEvent& event : *events) add_token(event);
}

// One step of rank 0; returns without one when the epoch is over.
void Worker::follow() {
  pulse_.busy = false;
  const Result<void> followed = engine::follow_step(
      *member_->backend, member_->ranks, {.forced = {}, .chosen = {}, .advanced = [this] {
                                            pulse_.busy = true;
                                            ++pulse_.progress;
                                          }});
  pulse_.busy = true;
  if (!followed) report_broken(followed.error().message);
}

void Worker::drop_requests() {
  if (engine_) engine_->reset();
  open_.clear();
}

void Worker::admit(const wire::pb::Admit& message) {
  Result<engine::Request> request = from_message(message);
  const RequestId id{message.request()};
  const auto index = static_cast<std::size_t>(message.log_size());
  const std::uint64_t total = static_cast<std::uint64_t>(message.ids_size()) + index;
  Result<void> admitted = engine_ ? Result<void>() : unavailable("no epoch has begun");
  if (!request) admitted = request.error();
  if (admitted) admitted = engine_->admit(std::move(*request));
  if (!admitted) {
    wire::pb::FromWorker refusal;
    *refusal.mutable_token() = failure_message(id, message.attempt(), index, admitted.error());
    outbox_.push_back(std::move(refusal));
    return;
  }
  const Open open{.attempt = message.attempt()};
  open_[id] = open;
  add_prefill(id, open, 0, total);
}

// --- to the agent -----------------------------------------------------------------------------

void Worker::add_token(const engine::TokenEvent& event) {
  const auto place = open_.find(event.request);
  if (place == open_.end()) return;  // cancelled
  place->second.has_token = true;
  wire::pb::FromWorker message;
  *message.mutable_token() = to_message(event, place->second.attempt);
  outbox_.push_back(std::move(message));
  if (event.finish != engine::FinishReason::kNone) open_.erase(place);
}

void Worker::add_prefill(RequestId id, const Open& open, std::uint64_t done, std::uint64_t total) {
  wire::pb::FromWorker message;
  wire::pb::Prefill* prefill = message.mutable_prefill();
  prefill->set_request(id.value);
  prefill->set_attempt(open.attempt);
  prefill->set_done(done);
  prefill->set_total(total);
  outbox_.push_back(std::move(message));
}

void Worker::add_reports() {
  if (!engine_ || !is_first()) return;
  const Time now = clock_.now();
  const bool due = !reported_at_ || now - *reported_at_ >= limits_.report_every;
  if (!due && !engine_->idle()) return;
  reported_at_ = now;
  for (const auto& [id, open] : open_) {
    if (open.has_token) continue;
    if (const auto progress = engine_->prefill_progress(id)) {
      add_prefill(id, open, progress->first, progress->second);
    }
  }
  wire::pb::FromWorker message;
  *message.mutable_stats() = to_message(engine_->stats());
  outbox_.push_back(std::move(message));
}

void Worker::add_trace(const wire::pb::TraceRequest& request) {
  wire::pb::FromWorker message;
  wire::pb::Trace* trace = message.mutable_trace();
  if (trace_) *trace = to_message(*trace_, request.steps_max());
  trace->set_id(request.id());
  if (member_) {
    trace->set_rank(member_->epoch.rank());
    trace->set_epoch(member_->epoch.epoch());
    if (member_->group) add_exchanges(member_->group->stats(), *trace);
    if (member_->transport) add_links(*member_->transport, *trace);
  }
  outbox_.push_back(std::move(message));
}

Result<void> Worker::flush() {
  if (outbox_.empty()) return {};
  if (!link_.send(outbox_)) return unavailable("the agent is gone");
  outbox_.clear();
  return {};
}

}  // namespace conclave::cluster
