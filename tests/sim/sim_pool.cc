#include "sim_pool.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "sim_agents.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

constexpr Duration kWatchEvery = milliseconds(100);

}  // namespace

SimPool::SimPool(const Surroundings& surroundings, PoolSetup setup, Reached& reached)
    : around_(surroundings),
      setup_(std::move(setup)),
      reached_(reached),
      clients_(setup_.alone, setup_.answers_depend_on_layout, reached),
      parts_{.around = around_,
             .model = setup_.model,
             .times = setup_.times,
             .engine = setup_.engine,
             .limits = setup_.limits,
             .node = {},
             .fail = [this](std::string what) { clients_.fail(std::move(what)); },
             .worker_ended = [this](std::size_t node) { clients_.on_worker_ended(node); }},
      placer_(setup_.model.config(), setup_.placer),
      streams_(surroundings.machinery.network),
      agents_(surroundings.scenario.n_nodes),
      drained_(agents_.size()) {
  watch();
}

SimPool::~SimPool() = default;

SimHeadAgent* SimPool::head() const { return static_cast<SimHeadAgent*>(agents_[0].get()); }

// ---- Clients ------------------------------------------------------------------------------------

void SimPool::submit(const ScenarioRequest& asked) {
  const RequestId id{++n_requests_};
  const engine::Request& request = clients_.ask(setup_.request(asked, id));
  if (head() == nullptr) return clients_.on_refused(id);
  head()->submit(request);
  if (asked.cancel_after == Duration::zero()) return;
  around_.machinery.world.schedule_after(asked.cancel_after, [this, id] {
    if (head() != nullptr) head()->cancel(id);
  });
}

bool SimPool::idle() const {
  if (!clients_.all_ended()) return false;
  if (head() == nullptr) return true;
  return head()->status().open_requests == 0 && (!setup_.settles || settled());
}

// All that are well and of use are together, and what backups there is room for are in memory.
bool SimPool::settled() const {
  if (now() < around_.scenario.faults_end) return false;
  const cluster::HeadStatus status = head()->status();
  const bool one_hangs = std::ranges::any_of(
      status.nodes, [&](const auto& node) { return node.alive && !well(node.node.value); });
  if (!could_hold_since_ || one_hangs) return true;  // nothing to hope for
  if (status.phase != cluster::HeadPhase::kRunning || status.rebuilding) return false;
  const bool joins = std::ranges::all_of(status.nodes, [&](const cluster::NodeStatus& node) {
    return node.holds.empty() || !well(node.node.value) || (node.alive && node.state == "ready");
  });
  return joins;
}

std::string SimPool::describe() const {
  std::ostringstream text;
  if (head() == nullptr) {
    text << "no head";
  } else {
    const cluster::HeadStatus status = head()->status();
    text << "epoch " << status.epoch << ", " << status.text;
    for (const cluster::NodeStatus& node : status.nodes) {
      text << "; " << node.name << ' ' << node.state << (node.alive ? "" : " (not alive)");
    }
  }
  text << clients_.describe();
  if (head() == nullptr) return text.str();
  for (const cluster::HistoryEntry& entry : head()->history()) {
    text << "\n    " << seconds(entry.at - Time{}) << " s: " << entry.text;
  }
  return text.str();
}

// ---- What is well, and what it could hold -------------------------------------------------------

// Neither is a fault at work on it, nor has its worker failed for good.
bool SimPool::well(std::size_t node) const {
  const sim::Network& network = around_.machinery.network;
  const SimAgent* agent = agents_[node].get();
  return agent != nullptr && network.up(node) && !network.frozen(node) &&
         !agent->thread().stopped() && !agent->host().worker_hangs() && !drained_[node] &&
         !around_.troubled(node) &&
         agent->host().node().supervisor().phase() != cluster::WorkerSupervisor::Phase::kFailed;
}

void SimPool::watch() {
  std::size_t units = 0;
  for (std::size_t node = 0; node < agents_.size(); ++node) {
    if (well(node)) units += units_in(setup_.usable_bytes[node], node == 0);
  }
  const bool can_hold = units >= placer_.n_units() && well(0);
  if (!can_hold) could_hold_since_.reset();
  if (can_hold && !could_hold_since_) could_hold_since_ = now();
  around_.machinery.world.schedule_after(kWatchEvery, [this] { watch(); });
}

bool SimPool::could_hold_for(Duration duration) const {
  return could_hold_since_ && now() - *could_hold_since_ >= duration;
}

// ---- Machines -----------------------------------------------------------------------------------

void SimPool::start(std::size_t node) {
  CHECK(agents_[node] == nullptr);
  drained_[node] = false;
  if (node == 0) {
    agents_[0] = std::make_unique<SimHeadAgent>(*this, streams_);
  } else {
    agents_[node] =
        std::make_unique<SimNodeAgent>(parts_, streams_, node, setup_.usable_bytes[node]);
  }
  agents_[node]->start();
}

void SimPool::crash(std::size_t node) {
  agents_[node].reset();
  if (node == 0) clients_.on_head_lost();
}

bool SimPool::crash_agent(std::size_t node) {
  if (agents_[node] == nullptr) return false;
  agents_[node]->close_connections();
  crash(node);
  return true;
}

bool SimPool::stop_agent(std::size_t node) {
  if (agents_[node] == nullptr || agents_[node]->thread().stopped()) return false;
  agents_[node]->thread().set_stopped(true);
  return true;
}

void SimPool::continue_agent(std::size_t node) {
  if (agents_[node] != nullptr) agents_[node]->thread().set_stopped(false);
}

bool SimPool::crash_worker(std::size_t node) {
  return agents_[node] != nullptr && agents_[node]->host().crash_worker();
}

bool SimPool::hang_worker(std::size_t node) {
  return agents_[node] != nullptr && agents_[node]->host().hang_worker();
}

bool SimPool::stick_worker(std::size_t node) {
  return agents_[node] != nullptr && agents_[node]->host().stick_worker();
}

void SimPool::unhang_worker(std::size_t node) {
  if (agents_[node] != nullptr) agents_[node]->host().unhang_worker();
}

bool SimPool::drain(std::size_t node) {
  if (node == 0 || head() == nullptr || head()->thread().stopped()) return false;
  if (!head()->drain(node)) return false;
  drained_[node] = true;
  ++reached_.drains;
  return true;
}

}  // namespace conclave::cluster_sim
