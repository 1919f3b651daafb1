// The stand-in's worker process.
#pragma once

#include <utility>
#include <vector>

#include "standin_cluster.h"

namespace conclave::cluster_sim::standin {

class StandinCluster::Worker {
 public:
  Worker(StandinCluster& cluster, Process& self, Control& control)
      : cluster_(cluster),
        self_(self),
        control_(control),
        fabric_(cluster.around_.data_plane, self) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void run();

 private:
  // The agent's newer epoch ends the present one.
  class Watch final : public transport::Watch {
   public:
    Watch(const Control& control, std::uint32_t epoch) : control_(control), epoch_(epoch) {}
    int fd() const override { return -1; }
    bool interrupted() override { return control_.wanted.epoch != epoch_; }

   private:
    const Control& control_;
    std::uint32_t epoch_;
  };
  struct Sequence {
    Admit admit;
    std::size_t n_prefilled = 0;
  };
  struct Step {
    bool prefill = false;
    std::vector<std::size_t> sequences;  // indices into open_, a row each; one in a prefill
    std::vector<float> residual;         // [rows, kHidden]
  };

  void load();
  void live(const Assignment& assignment);
  void lead(collective::Group& group, std::uint32_t epoch);
  Result<void> follow(collective::Group& group);
  std::optional<Step> plan();
  // The logits of the last row of a prefill, or of each row. Only rank 0 gets any.
  Result<std::vector<std::vector<float>>> forward(collective::Group& group, std::uint32_t step,
                                                  std::vector<float>& hidden, bool prefill);
  Result<void> layer(collective::Group& group, std::uint32_t step, std::uint16_t layer,
                     std::span<float> hidden, bool prefill);
  void finish(const Step& step, const std::vector<std::vector<float>>& logits);
  void take_admits();
  void work(Phase phase, Duration duration);

  StandinCluster& cluster_;
  Process& self_;
  Control& control_;
  SimFabric fabric_;
  std::vector<Sequence> open_;
};

}  // namespace conclave::cluster_sim::standin
