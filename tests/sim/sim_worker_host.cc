#include "sim_worker_host.h"

#include <utility>

#include "base/check.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

constexpr Duration kBeatEvery = milliseconds(100);
constexpr Duration kReapAfter = milliseconds(2);
constexpr Duration kTokenLateBy = milliseconds(200);  // mean, of a copy
constexpr Duration kTick = milliseconds(50);

}  // namespace

// The order matters: processes are unwound before what they use.
struct SimWorkerHost::Worker {
  Worker(sim::Network& network, std::size_t node, std::function<void()> readable)
      : control(network, node, std::move(readable)) {}
  SimControl control;
  cluster::WorkerPulse pulse;
  std::optional<SimHost> host;
  bool stuck = false;
  std::shared_ptr<int> life = std::make_shared<int>(0);  // events hold it weakly
  std::unique_ptr<Process> loader;
  std::unique_ptr<Process> main;
};

SimWorkerHost::SimWorkerHost(const PoolParts& parts, AgentThread& thread, std::size_t node,
                             Handlers handlers)
    : parts_(parts),
      thread_(thread),
      node_number_(node),
      handlers_(std::move(handlers)),
      node_(parts.node) {}

SimWorkerHost::~SimWorkerHost() = default;

void SimWorkerHost::poll() {
  check_fencing();
  read_worker(false);
  node_.on_tick(now());
  act();
}

void SimWorkerHost::on_assignment(const wire::pb::Assignment& assignment) {
  ticks_since_assignment_ = 0;
  leased_ = true;
  if (assignment.kill_worker() != 0 && assignment.kill_worker() == n_workers_ && worker_) {
    if (asked_to_kill_ != n_workers_) ticks_since_kill_ = 0;
    asked_to_kill_ = n_workers_;
  }
  node_.on_assignment(now(), assignment);
  act();
}

void SimWorkerHost::on_head() {
  ticks_since_assignment_ = 0;
  node_.on_head(now());
  act();
}

void SimWorkerHost::on_head_gone() {
  node_.on_head_gone(now());
  act();
}

void SimWorkerHost::tell(const wire::pb::ToWorker& message) {
  if (worker_ && !worker_->control.closed()) worker_->control.tell(message);
}

// What the node wants done may make it want more.
void SimWorkerHost::act() {
  if (std::exchange(acting_, true)) return;
  for (;;) {
    std::vector<cluster::NodeAction> actions = node_.take_actions();
    if (actions.empty()) break;
    for (cluster::NodeAction& action : actions) perform(action);
  }
  acting_ = false;
}

void SimWorkerHost::perform(cluster::NodeAction& action) {
  if (std::holds_alternative<cluster::SpawnWorker>(action)) {
    spawn();
  } else if (std::holds_alternative<cluster::KillWorker>(action)) {
    if (!worker_) return;
    worker_->control.close();
    bury("killed by signal 9");
  } else if (const auto* told = std::get_if<cluster::TellWorker>(&action)) {
    tell(told->message);
  } else if (const auto* report = std::get_if<cluster::TellHead>(&action)) {
    handlers_.on_report(report->report);
  }
}

void SimWorkerHost::spawn() {
  if (worker_) return parts_.fail("two workers of node " + std::to_string(node_number_));
  ++n_workers_;
  leased_ = false;
  const Machinery& machinery = parts_.around.machinery;
  worker_ = std::make_unique<Worker>(machinery.network, node_number_,
                                     [this] { thread_.run([this] { read_worker(false); }); });
  Worker& worker = *worker_;
  const auto main = [this, &worker](Process& self) {
    worker.control.set_process(&self);
    self.compute(parts_.times.spawn);
    SimFabric fabric(parts_.around.data_plane, self);
    worker.host.emplace(SimHost::Around{.model = parts_.model,
                                        .times = parts_.times,
                                        .memory = memory_,
                                        .control = worker.control,
                                        .pulse = worker.pulse,
                                        .reached = parts_.around.reached,
                                        .new_kv_id = [this] { return parts_.around.new_id(); },
                                        .data = fabric.endpoint(),
                                        .context_max = parts_.model.config().max_positions},
                        self);
    worker.loader = std::make_unique<Process>(
        parts_.around.machinery, node_number_,
        [&worker](Process& loader) { worker.host->load_forever(loader); });
    cluster::Worker rank(worker.control, fabric, *worker.host, worker.pulse, self.world(),
                         parts_.engine, parts_.limits);
    const Error end = rank.run();
    if (end.code != ErrorCode::kUnavailable) parts_.fail("a worker ends: " + end.message);
  };
  worker.main = std::make_unique<Process>(machinery, node_number_, main);
  beat();
  node_.on_spawned(now());
}

// The heartbeat thread of the worker.
void SimWorkerHost::beat() {
  if (dying_) return;
  if (worker_->stuck || !worker_->main->hung()) {
    wire::pb::FromWorker message;
    message.mutable_heartbeat()->set_progress(worker_->pulse.progress);
    // It hangs after it has woken up.
    const bool busy = worker_->pulse.busy || (worker_->stuck && worker_->control.unread());
    message.mutable_heartbeat()->set_busy(busy);
    message.mutable_heartbeat()->set_waiting_for(worker_->pulse.waiting_for);
    worker_->control.send(message);
  }
  // Of the machine, not of the agent's thread.
  parts_.around.machinery.network.after(node_number_, kBeatEvery,
                                        [this, life = std::weak_ptr<int>(worker_->life)] {
                                          if (!life.expired()) beat();
                                        });
}

void SimWorkerHost::read_worker(bool ended) {
  if (!worker_ || worker_->control.closed()) return;
  for (const wire::pb::FromWorker& message : worker_->control.read(ended)) {
    node_.on_worker(now(), message);
    act();
    if (message.has_token() || message.has_prefill() || message.has_stats()) {
      handlers_.on_message(message);
      repeat_token(message);
    }
    if (!worker_ || worker_->control.closed()) return;
  }
}

// The token log is to take each index once, whatever workers send, late or twice.
void SimWorkerHost::repeat_token(const wire::pb::FromWorker& message) {
  if (!message.has_token()) return;
  const std::optional<Duration> late = parts_.around.data_plane.draw_late_copy(kTokenLateBy);
  if (late) thread_.after(*late, [this, message] { handlers_.on_message(message); });
}

// The worker's process is gone; its agent hears of it a moment later.
void SimWorkerHost::bury(const std::string& how) {
  if (std::exchange(dying_, true)) return;
  worker_->control.set_process(nullptr);
  worker_->main.reset();
  worker_->loader.reset();
  parts_.worker_ended(node_number_);
  thread_.after(kReapAfter, [this, how] {
    read_worker(true);
    node_.on_worker_closed(now());
    act();
    worker_.reset();
    dying_ = false;
    node_.on_worker_exited(now(), how);
    act();
  });
}

// A worker that the head wants dead, or whose head is silent, must not stay.
void SimWorkerHost::check_fencing() {
  constexpr int kSlack = 10;  // ticks
  if (worker_ && !dying_ && asked_to_kill_ == n_workers_ && ++ticks_since_kill_ > kSlack) {
    parts_.fail("node " + std::to_string(node_number_) + " keeps a worker that was to be killed");
  }
  const auto lease = static_cast<int>(parts_.node.lease / kTick);
  if (worker_ && !dying_ && leased_ && ++ticks_since_assignment_ > lease + kSlack) {
    parts_.fail("node " + std::to_string(node_number_) + " keeps a worker without a head");
  }
}

// --- faults -----------------------------------------------------------------------------------

bool SimWorkerHost::crash_worker() {
  if (!worker_ || dying_) return false;
  bury("killed by signal 11");
  return true;
}

bool SimWorkerHost::hang_worker() {
  if (!worker_ || dying_ || worker_->main->hung()) return false;
  worker_->main->set_hung(true);
  if (worker_->loader) worker_->loader->set_hung(true);
  return true;
}

bool SimWorkerHost::stick_worker() {
  if (!worker_ || dying_ || worker_->main->hung()) return false;
  worker_->stuck = true;
  worker_->main->set_hung(true);
  return true;
}

void SimWorkerHost::unhang_worker() {
  if (!worker_ || dying_ || !worker_->main->hung()) return;
  worker_->stuck = false;
  worker_->main->set_hung(false);
  if (worker_->loader) worker_->loader->set_hung(false);
}

bool SimWorkerHost::worker_hangs() const { return worker_ && !dying_ && worker_->main->hung(); }

}  // namespace conclave::cluster_sim
