// The code of src/cluster on simulated machines: a head and up to four other machines, each with an
// agent and a worker.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "clients.h"
#include "sim_placer.h"
#include "sim_streams.h"
#include "sim_worker_host.h"

namespace conclave::cluster_sim {

// What is pooled. All that it refers to outlives the pool.
struct PoolSetup {
  explicit PoolSetup(const SimModel& the_model) : model(the_model) {}
  const SimModel& model;
  SimTimes times;
  cluster::HeadOptions head;
  SimPlacerOptions placer;
  engine::EngineOptions engine;
  cluster::WorkerLimits limits;
  std::vector<std::uint64_t> usable_bytes;  // [node]
  std::function<engine::Request(const ScenarioRequest&, RequestId)> request;
  Clients::Alone alone;
  bool answers_depend_on_layout = false;
  bool settles = false;  // at the end the pool has to be whole again, as far as it can be
};

class SimAgent;
class SimHeadAgent;

class SimPool final : public System {
 public:
  SimPool(const Surroundings& surroundings, PoolSetup setup, Reached& reached);
  ~SimPool() override;
  SimPool(const SimPool&) = delete;
  SimPool& operator=(const SimPool&) = delete;

  void submit(const ScenarioRequest& request) override;
  bool idle() const override;
  std::optional<std::string> violation() const override { return clients_.violation(); }
  std::string describe() const override;
  const Clients& clients() const { return clients_; }

  void start(std::size_t node) override;
  void crash(std::size_t node) override;
  bool crash_agent(std::size_t node) override;
  bool stop_agent(std::size_t node) override;
  void continue_agent(std::size_t node) override;
  bool crash_worker(std::size_t node) override;
  bool hang_worker(std::size_t node) override;
  bool stick_worker(std::size_t node) override;
  void unhang_worker(std::size_t node) override;
  bool drain(std::size_t node) override;
  bool running(std::size_t node) const override { return agents_[node] != nullptr; }

 private:
  friend class SimHeadAgent;
  bool well(std::size_t node) const;
  bool settled() const;
  void watch();
  bool could_hold_for(Duration duration) const;
  Time now() const { return around_.machinery.world.now(); }
  SimHeadAgent* head() const;

  Surroundings around_;
  PoolSetup setup_;
  Reached& reached_;
  Clients clients_;
  PoolParts parts_;
  SimPlacer placer_;
  SimStreams streams_;
  std::vector<std::unique_ptr<SimAgent>> agents_;  // [node]; null: nothing runs there
  std::vector<bool> drained_;                      // in this life of its agent
  std::optional<Time> could_hold_since_;
  std::uint64_t n_requests_ = 0;
};

}  // namespace conclave::cluster_sim
