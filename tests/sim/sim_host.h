// A worker's part of a model in simulation: as CpuHost, with a fiber in place of its loading
// thread, and memory that is bookkeeping.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "cluster/layout.h"
#include "cluster/model_host.h"
#include "faults.h"
#include "sim_control.h"
#include "sim_model.h"

namespace conclave::cluster_sim {

// What a process says where it gets there: a fault may strike exactly there.
using AtPhase = std::function<bool(Phase)>;

class SimHost final : public cluster::ModelHost {
 public:
  struct Around {
    const SimModel& model;
    const SimTimes& times;
    AgentMemory& memory;
    SimControl& control;
    cluster::WorkerPulse& pulse;
    AtPhase reached;
    std::function<std::uint64_t()> new_kv_id;
    transport::Endpoint data;  // where other ranks reach this worker
    std::size_t context_max = 0;
  };
  // `main` computes.
  SimHost(Around around, Process& main) : around_(std::move(around)), main_(main) {}

  // The loading process; does not return.
  void load_forever(Process& self);

  void want(const wire::pb::Assignment& assignment) override;
  Result<backend::Backend*> activate(std::span<const std::size_t> virtual_ranks) override;
  engine::Division division() const override;
  const text::TextModel* text() const override { return nullptr; }

 private:
  struct Loaded {
    cluster::Layout layout;
    bool embedding = false;
    std::set<std::size_t> slices;  // virtual ranks in memory
  };

  void load(Process& self, const wire::pb::Assignment& assignment);
  void spend(Process& self, Duration duration);
  void take_kv(const cluster::Layout& layout);
  void forget_unwanted(const wire::pb::Assignment& assignment);
  void drop_unused(const wire::pb::Assignment& assignment);
  void send_held();

  Around around_;
  Process& main_;
  Process* loader_ = nullptr;
  std::optional<wire::pb::Assignment> wanted_;
  bool changed_ = false;
  std::shared_ptr<Loaded> loaded_;
  std::shared_ptr<Loaded> computing_;
  std::vector<std::size_t> active_;
  std::unique_ptr<backend::Backend> backend_;
};

}  // namespace conclave::cluster_sim
