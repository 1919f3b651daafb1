#include "cluster/node.h"

#include <algorithm>
#include <utility>

namespace conclave::cluster {
namespace {

using Action = WorkerSupervisor::Action;
using Phase = WorkerSupervisor::Phase;

// What one tick may add to the head's silence: more means that this agent was stopped.
constexpr Duration kTickMax = std::chrono::milliseconds(250);

}  // namespace

struct Node::State {
  explicit State(const NodeOptions& the_options)
      : options(the_options), supervisor(the_options.supervisor) {
    report.set_waiting_for(-1);
  }

  void act(Action action);
  void update(Time now);
  void send_report(Time now);
  void pass_assignment();
  void end_worker(const std::string& why);
  wire::pb::WorkerState worker_state() const;

  NodeOptions options;
  WorkerSupervisor supervisor;
  std::optional<wire::pb::Assignment> assignment;
  bool wanted = false;  // there is something for a worker to do
  bool leased = false;  // a head has spoken lately
  wire::pb::Report report;
  std::uint64_t report_sequence = 0;
  std::string last_facts;  // what of the report is worth telling at once
  Time last_report{};
  Time last_tick{};
  Duration head_silence{};
  bool holds = false;  // this worker has said what it holds
  std::vector<NodeAction> actions;
};

Node::Node(const NodeOptions& options) : state_(std::make_unique<State>(options)) {}
Node::~Node() = default;

void Node::State::act(Action action) {
  if (action == Action::kSpawn) actions.push_back(SpawnWorker{});
  if (action == Action::kKill) actions.push_back(KillWorker{});
}

void Node::State::end_worker(const std::string& why) { act(supervisor.on_lost(why)); }

wire::pb::WorkerState Node::State::worker_state() const {
  switch (supervisor.phase()) {
    case Phase::kWaiting:
    case Phase::kEnding:
      return wire::pb::WORKER_STARTING;
    case Phase::kLoading:
      return wire::pb::WORKER_LOADING;
    case Phase::kReady:
      return holds ? wire::pb::WORKER_READY : wire::pb::WORKER_LOADING;
    case Phase::kFailed:
      return wire::pb::WORKER_FAILED;
  }
  return wire::pb::WORKER_NONE;
}

void Node::State::send_report(Time now) {
  last_report = now;
  report.set_sequence(++report_sequence);
  actions.push_back(TellHead{report});
}

// Reports at once what the head waits for, and the rest from time to time.
void Node::State::update(Time now) {
  report.set_worker(worker_state());
  report.set_worker_life(static_cast<std::uint32_t>(supervisor.spawns()));
  if (supervisor.phase() == Phase::kFailed) report.set_error(supervisor.failure());
  wire::pb::Report facts = report;
  facts.clear_sequence();
  facts.clear_progress();
  facts.clear_busy();
  facts.clear_waiting_for();
  facts.clear_loaded_bytes();
  facts.clear_assignment();
  std::string text = facts.SerializeAsString();
  if (text == last_facts && now - last_report < options.report_every) return;
  last_facts = std::move(text);
  send_report(now);
}

void Node::State::pass_assignment() {
  if (!assignment || supervisor.phase() == Phase::kWaiting) return;
  if (supervisor.phase() == Phase::kEnding || supervisor.phase() == Phase::kFailed) return;
  TellWorker tell;
  *tell.message.mutable_assignment() = *assignment;
  tell.message.mutable_assignment()->clear_sequence();
  actions.push_back(std::move(tell));
}

void Node::on_head(Time now) {
  State& s = *state_;
  s.assignment.reset();
  s.head_silence = {};
  s.last_facts.clear();
  s.update(now);
}

void Node::on_head_gone(Time now) {
  State& s = *state_;
  s.assignment.reset();
  s.update(now);
}

void Node::on_assignment(Time now, const wire::pb::Assignment& assignment) {
  State& s = *state_;
  s.head_silence = {};
  s.leased = true;
  const bool same_head = s.assignment && s.assignment->head() == assignment.head();
  if (same_head && assignment.sequence() <= s.assignment->sequence()) return;
  wire::pb::Assignment before;
  if (s.assignment) before = *s.assignment;
  before.set_sequence(assignment.sequence());
  const bool changed = !same_head || before.SerializeAsString() != assignment.SerializeAsString();
  s.assignment = assignment;
  s.report.set_assignment(assignment.sequence());
  if (assignment.has_layout()) s.wanted = true;
  if (!same_head) {  // another head's epochs count anew
    s.report.clear_joined_epoch();
    s.report.clear_broken();
  }
  if (assignment.kill_worker() != 0 && assignment.kill_worker() == s.supervisor.spawns()) {
    s.end_worker("the head finds that it hangs");
  }
  if (changed) s.pass_assignment();
  s.update(now);
}

void Node::on_spawned(Time now) {
  State& s = *state_;
  s.supervisor.on_spawned(now);
  s.holds = false;
  s.report.clear_held();
  s.report.clear_layout();
  s.report.clear_joined_epoch();
  s.report.clear_broken();
  s.report.clear_kv();
  s.report.set_waiting_for(-1);
  s.report.set_busy(true);
  s.pass_assignment();
  s.update(now);
}

void Node::on_worker(Time now, const wire::pb::FromWorker& message) {
  State& s = *state_;
  switch (message.body_case()) {
    case wire::pb::FromWorker::kHeartbeat: {
      const wire::pb::Heartbeat& beat = message.heartbeat();
      s.supervisor.on_heartbeat(beat.progress(), beat.busy() && beat.waiting_for() < 0);
      s.report.set_progress(beat.progress());
      s.report.set_busy(beat.busy());
      s.report.set_waiting_for(beat.waiting_for());
      break;
    }
    case wire::pb::FromWorker::kLoading:
      s.report.set_loaded_bytes(message.loading().done_bytes());
      s.report.set_total_bytes(message.loading().total_bytes());
      break;
    case wire::pb::FromWorker::kHeld: {
      const wire::pb::Held& held = message.held();
      s.supervisor.on_ready(now);
      s.holds = true;
      s.report.set_layout(held.layout());
      *s.report.mutable_held() = held.virtual_ranks();
      s.report.set_backend(held.backend());
      s.report.set_context_max(held.context_max());
      s.report.set_kv(held.kv());
      *s.report.mutable_data() = held.data();
      break;
    }
    case wire::pb::FromWorker::kJoined:
      s.report.set_joined_epoch(message.joined().epoch());
      s.report.clear_broken();
      break;
    case wire::pb::FromWorker::kBroken:
      *s.report.mutable_broken() = message.broken();
      break;
    case wire::pb::FromWorker::kFailed:
      s.act(s.supervisor.on_refused(message.failed().error()));
      break;
    case wire::pb::FromWorker::kToken:
      s.supervisor.on_token();
      break;
    case wire::pb::FromWorker::BODY_NOT_SET:
      s.end_worker("a message without a body");
      break;
    default:
      break;
  }
  s.update(now);
}

void Node::on_worker_closed(Time now) {
  state_->end_worker("its socket closed");
  state_->update(now);
}

void Node::on_worker_exited(Time now, const std::string& how) {
  State& s = *state_;
  if (s.supervisor.phase() == Phase::kWaiting) s.supervisor.on_spawned(now);  // it never started
  if (s.supervisor.phase() != Phase::kFailed) static_cast<void>(s.supervisor.on_lost(""));
  s.supervisor.on_exited(now, how);
  s.holds = false;
  s.report.clear_held();
  s.report.clear_joined_epoch();
  s.report.set_busy(false);
  s.report.set_waiting_for(-1);
  s.update(now);
}

void Node::on_tick(Time now) {
  State& s = *state_;
  const Duration passed = std::clamp(now - s.last_tick, Duration::zero(), kTickMax);
  s.last_tick = now;
  s.head_silence += passed;
  if (s.head_silence >= s.options.lease && std::exchange(s.leased, false)) {
    s.assignment.reset();
    s.act(s.supervisor.on_unwanted("its head is silent"));
  }
  if (s.wanted) s.act(s.supervisor.on_tick(now));
  s.update(now);
}

std::vector<NodeAction> Node::take_actions() { return std::exchange(state_->actions, {}); }
const WorkerSupervisor& Node::supervisor() const { return state_->supervisor; }
const wire::pb::Report& Node::report() const { return state_->report; }

}  // namespace conclave::cluster
