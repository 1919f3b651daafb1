#include "standin_cluster.h"

#include <algorithm>
#include <sstream>
#include <tuple>

#include "base/check.h"
#include "standin_worker.h"

namespace conclave::cluster_sim::standin {
namespace {

using std::chrono::milliseconds;

constexpr Duration kTickEvery = milliseconds(20);
constexpr Duration kSilenceLimit = milliseconds(150);    // then a node is given up
constexpr Duration kHeartbeatLimit = milliseconds(100);  // then a worker is killed
constexpr Duration kSettle = milliseconds(60);           // an epoch lives so long before a newcomer
constexpr std::uint64_t kMessageBytes = 300;
// Epochs of one life of the head; the next life's are above.
constexpr std::uint32_t kEpochsPerLife = 100'000;

}  // namespace

bool StandinCluster::Report::newer_than(const Report& other) const {
  return std::tie(life, sequence) > std::tie(other.life, other.sequence);
}

StandinCluster::StandinCluster(const Surroundings& surroundings, Reached& reached)
    : around_(surroundings),
      reached_(reached),
      groups_(groups_of(surroundings.scenario.n_nodes)),
      agents_(surroundings.scenario.n_nodes) {}

StandinCluster::~StandinCluster() = default;

void StandinCluster::fail(std::string what) {
  if (!violation_) violation_ = std::move(what);
}

// ---- Machines -----------------------------------------------------------------------------------

void StandinCluster::start(std::size_t node) {
  CHECK(agents_[node] == nullptr);
  agents_[node] = std::make_unique<Agent>();
  if (node == 0) {
    head_ = std::make_unique<Head>();
    head_->epoch = static_cast<std::uint32_t>(network().incarnation(0)) * kEpochsPerLife;
    head_->n_assignments = head_->epoch;
    head_->reports.resize(agents_.size());
    head_->heard_at.resize(agents_.size());
  }
  start_worker(node);
  tick(node);
}

void StandinCluster::crash(std::size_t node) {
  agents_[node].reset();
  if (node != 0) return;
  head_.reset();
  fail_open_requests();
}

bool StandinCluster::crash_worker(std::size_t node) {
  if (agents_[node] == nullptr) return false;
  start_worker(node);
  return true;
}

bool StandinCluster::hang_worker(std::size_t node) {
  if (agents_[node] == nullptr || agents_[node]->worker->hung()) return false;
  agents_[node]->worker->set_hung(true);
  agents_[node]->hung_since = now();
  return true;
}

void StandinCluster::unhang_worker(std::size_t node) {
  if (agents_[node] == nullptr || !agents_[node]->worker->hung()) return;
  agents_[node]->worker->set_hung(false);
  agents_[node]->hung_since.reset();
}

// ---- Agents -------------------------------------------------------------------------------------

void StandinCluster::tick(std::size_t node) {
  Agent& agent = *agents_[node];
  if (agent.hung_since && now() - *agent.hung_since >= kHeartbeatLimit) start_worker(node);
  report(node);
  if (node == 0) {
    consider();
    send_assignments();
  }
  network().after(node, kTickEvery, [this, node] { tick(node); });
}

void StandinCluster::start_worker(std::size_t node) {
  Agent& agent = *agents_[node];
  agent.worker.reset();
  agent.hung_since.reset();
  agent.control = {};
  ++agent.n_workers;
  agent.worker = std::make_unique<Process>(around_.machinery, node, [this, &agent](Process& self) {
    Worker(*this, self, agent.control).run();
  });
  if (node != 0) return;
  for (std::size_t r = 0; r < requests_.size(); ++r) {
    if (requests_[r].open) admit(r);
  }
}

void StandinCluster::report(std::size_t node) {
  Agent& agent = *agents_[node];
  const Report report{.life = network().incarnation(node),
                      .sequence = ++agent.n_reports,
                      .worker_life = agent.n_workers,
                      .ready = agent.control.ready,
                      .broken_epoch = agent.control.broken_epoch,
                      .endpoint = agent.control.endpoint};
  if (node == 0) {
    // As an event of its own: the worker calls this from its fiber.
    network().after(0, Duration::zero(), [this, report] { on_report(0, report); });
  } else {
    network().send(node, 0, kMessageBytes, [this, node, report] { on_report(node, report); });
  }
}

void StandinCluster::on_assignment(std::size_t node, const Assignment& assignment) {
  Agent& agent = *agents_[node];
  if (assignment.sequence <= agent.assignment.sequence) return;
  agent.assignment = assignment;
  if (assignment.epoch == agent.control.wanted.epoch) return;
  agent.control.wanted = assignment;
  agent.worker->wake();
}

void StandinCluster::fail_open_requests() {
  for (Request& request : requests_) {
    if (std::exchange(request.open, false)) ++reached_.failed_requests;
  }
}

// ---- The head -----------------------------------------------------------------------------------

void StandinCluster::submit(const ScenarioRequest& asked) {
  requests_.push_back(
      {.asked = asked, .expected = answer(asked, agents_.size()), .log = {}, .open = true});
  if (head_) {
    admit(requests_.size() - 1);
  } else {
    requests_.back().open = false;
    ++reached_.failed_requests;
  }
}

bool StandinCluster::idle() const {
  return std::ranges::none_of(requests_, [](const Request& r) { return r.open; });
}

void StandinCluster::admit(std::size_t request) {
  Request& r = requests_[request];
  agents_[0]->control.admits.push_back({request, ++r.attempt, r.log});
  agents_[0]->worker->wake();
}

void StandinCluster::on_token(std::size_t request, std::uint32_t attempt, std::size_t index,
                              std::uint64_t token) {
  Request& r = requests_[request];
  if (!r.open || attempt != r.attempt || index != r.log.size()) {
    ++reached_.tokens_ignored;
    return;
  }
  if (token != r.expected[index]) {
    fail("request " + std::to_string(request) + ": token " + std::to_string(index) + " is " +
         std::to_string(token) + ", not " + std::to_string(r.expected[index]));
  }
  r.log.push_back(token);
  if (r.log.size() < r.expected.size()) return;
  r.open = false;
  ++reached_.answered_requests;
}

void StandinCluster::on_report(std::size_t node, const Report& report) {
  if (!head_ || !report.newer_than(head_->reports[node])) return;
  head_->reports[node] = report;
  head_->heard_at[node] = now();
  consider();
}

bool StandinCluster::heard(std::size_t node) const {
  return head_->reports[node].sequence != 0 && now() - head_->heard_at[node] < kSilenceLimit;
}

bool StandinCluster::epoch_holds() const {
  const Head& head = *head_;
  for (std::size_t rank = 0; rank < head.assignment.nodes.size(); ++rank) {
    const std::size_t node = head.assignment.nodes[rank];
    const Report& report = head.reports[node];
    if (!heard(node) || report.endpoint != head.assignment.ranks[rank] ||
        report.worker_life != head.worker_lives[rank] ||
        report.broken_epoch == head.assignment.epoch) {
      return false;
    }
  }
  return head.assignment.epoch != 0;
}

void StandinCluster::consider() {
  std::vector<std::size_t> ready;
  for (std::size_t node = 0; node < agents_.size(); ++node) {
    if (heard(node) && head_->reports[node].ready) ready.push_back(node);
  }
  if (ready.empty() || ready[0] != 0) return;
  if (epoch_holds()) {
    const bool newcomer = ready.size() > head_->assignment.nodes.size();
    if (!newcomer || now() - head_->epoch_began < kSettle) return;
  }
  begin_epoch(ready);
}

void StandinCluster::begin_epoch(const std::vector<std::size_t>& nodes) {
  Head& head = *head_;
  if (head.assignment.epoch != 0) {
    ++reached_.replans;
    around_.reached(Phase::kReplan);
  }
  head.epoch_began = now();
  head.assignment = {};
  head.assignment.epoch = ++head.epoch;
  head.assignment.nodes = nodes;
  head.worker_lives.clear();
  for (const std::size_t node : nodes) {
    head.assignment.ranks.push_back(head.reports[node].endpoint);
    head.worker_lives.push_back(head.reports[node].worker_life);
  }
  for (std::size_t v = 0; v < groups_.size(); ++v) {
    const auto home = std::ranges::find(nodes, std::size_t{groups_[v]});
    const bool lost = home == nodes.end();
    // Virtual ranks of a lost machine are spread, so that a group has terms of several ranks.
    const std::size_t rank =
        lost ? v % nodes.size() : static_cast<std::size_t>(home - nodes.begin());
    if (lost) ++reached_.take_overs;
    head.assignment.computed_by.push_back(static_cast<Rank>(rank));
  }
  send_assignments();
}

void StandinCluster::send_assignments() {
  Head& head = *head_;
  if (head.assignment.epoch == 0) return;
  head.assignment.sequence = ++head.n_assignments;
  for (std::size_t node = 1; node < agents_.size(); ++node) {
    network().send(0, node, kMessageBytes,
                   [this, node, assignment = head.assignment] { on_assignment(node, assignment); });
  }
  on_assignment(0, head.assignment);
}

std::string StandinCluster::describe() const {
  std::ostringstream text;
  text << (head_ ? "head epoch " + std::to_string(head_->assignment.epoch) : "no head");
  for (std::size_t r = 0; r < requests_.size(); ++r) {
    text << "; request " << r << (requests_[r].open ? " open " : " ended ")
         << requests_[r].log.size() << '/' << requests_[r].expected.size();
  }
  return text.str();
}

}  // namespace conclave::cluster_sim::standin
