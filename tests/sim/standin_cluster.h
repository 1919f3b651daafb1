// A small cluster in the shape of the real one, on collective::Group and the simulated data plane:
// a head with token logs, agents that start workers and pass on epochs, workers that join epochs
// and repeat a broken step. It proves the machinery, and shows what an adaptor has to connect:
//
//   agents       objects that live as long as their node; inputs are events of the node (timers,
//                messages), outputs are calls of network.send and Process
//   workers      a Process each; what the control socket carries goes through `Control`
//   phases       Surroundings::reached, where the code gets there
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runner.h"
#include "standin_model.h"

namespace conclave::cluster_sim::standin {

// Counts of what the seeds are to reach at least once.
struct Reached {
  std::uint64_t take_overs = 0;  // epochs in which a rank computes another's virtual rank
  std::uint64_t replans = 0;     // epochs after the first
  std::uint64_t repeated_steps = 0;
  std::uint64_t tokens_ignored = 0;  // stale attempt or index
  std::uint64_t failed_requests = 0;
  std::uint64_t answered_requests = 0;
  std::uint64_t large_exchanges = 0;
  std::array<std::uint64_t, 4> broken{};  // by collective::Broken::Kind
};

class StandinCluster final : public System {
 public:
  StandinCluster(const Surroundings& surroundings, Reached& reached);
  ~StandinCluster() override;
  StandinCluster(const StandinCluster&) = delete;
  StandinCluster& operator=(const StandinCluster&) = delete;

  void submit(const ScenarioRequest& request) override;
  bool idle() const override;
  std::optional<std::string> violation() const override { return violation_; }
  std::string describe() const override;

  void start(std::size_t node) override;
  void crash(std::size_t node) override;
  bool crash_worker(std::size_t node) override;
  bool hang_worker(std::size_t node) override;
  void unhang_worker(std::size_t node) override;

 private:
  // What the head tells a node; it says what should be, so only the newest counts.
  struct Assignment {
    std::uint64_t sequence = 0;
    std::uint32_t epoch = 0;  // 0: none
    std::vector<std::size_t> nodes;
    std::vector<transport::Endpoint> ranks;
    std::vector<Rank> computed_by;  // [virtual rank]
  };
  // What a node tells the head; it says what is.
  struct Report {
    std::uint64_t life = 0;  // of the agent
    std::uint64_t sequence = 0;
    std::uint64_t worker_life = 0;
    bool ready = false;
    std::uint32_t broken_epoch = 0;
    transport::Endpoint endpoint;
    bool newer_than(const Report& other) const;
  };
  struct Admit {
    std::size_t request = 0;
    std::uint32_t attempt = 0;
    std::vector<std::uint64_t> log;
  };
  // The socket between an agent and its worker, and what the worker's heartbeat says.
  struct Control {
    Assignment wanted;
    std::deque<Admit> admits;  // rank 0
    bool ready = false;
    std::uint32_t broken_epoch = 0;
    transport::Endpoint endpoint;
  };
  struct Agent {
    std::uint64_t n_reports = 0;
    std::uint64_t n_workers = 0;
    Assignment assignment;
    Control control;  // of the present worker
    std::unique_ptr<Process> worker;
    std::optional<Time> hung_since;
  };
  struct Head {
    std::uint64_t n_assignments = 0;
    std::uint32_t epoch = 0;
    Time epoch_began{};
    std::vector<Report> reports;  // [node]
    std::vector<Time> heard_at;
    Assignment assignment;
    std::vector<std::uint64_t> worker_lives;  // of the epoch's members
  };
  struct Request {
    ScenarioRequest asked;
    std::vector<std::uint64_t> expected;
    std::vector<std::uint64_t> log;
    std::uint32_t attempt = 0;
    bool open = true;
  };
  class Worker;

  // Agents
  void tick(std::size_t node);
  void start_worker(std::size_t node);
  void report(std::size_t node);
  void on_assignment(std::size_t node, const Assignment& assignment);
  void fail_open_requests();

  // The head
  void on_report(std::size_t node, const Report& report);
  void consider();
  bool heard(std::size_t node) const;
  bool epoch_holds() const;
  void begin_epoch(const std::vector<std::size_t>& nodes);
  void send_assignments();
  void admit(std::size_t request);
  void on_token(std::size_t request, std::uint32_t attempt, std::size_t index, std::uint64_t token);

  Time now() const { return around_.machinery.world.now(); }
  sim::Network& network() const { return around_.machinery.network; }
  void fail(std::string what);

  Surroundings around_;
  Reached& reached_;
  std::vector<std::uint16_t> groups_;
  std::vector<Request> requests_;  // what clients see
  std::optional<std::string> violation_;
  std::unique_ptr<Head> head_;                  // null: the machine is down
  std::vector<std::unique_ptr<Agent>> agents_;  // [node]; null: the machine is down
};

}  // namespace conclave::cluster_sim::standin
