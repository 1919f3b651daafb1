// Ranks that are threads, over LoopbackFabric and IntegerBackend: what tests of several ranks need.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "engine/integer_backend.h"
#include "engine/step.h"
#include "transport/transport.h"

namespace conclave::engine {

struct Layout {
  std::vector<collective::VirtualRank> virtual_ranks;
  std::size_t n_ranks = 1;
};

// Holds all slices of the model and activates those that it computes; with replicated attention
// the first is the whole attention.
class Machine {
 public:
  Machine(std::span<const std::size_t> shares, bool attention_replicated)
      : attention_replicated_(attention_replicated),
        backend_(IntegerOptions{}, slices(shares, attention_replicated)) {}

  // One stage of a pipeline for each virtual rank.
  explicit Machine(std::vector<model::Slice> stages)
      : attention_replicated_(false), backend_(IntegerOptions{}, std::move(stages)) {}

  IntegerBackend& backend() { return backend_; }

  // Activates what `group` gives this rank to compute.
  Division join(const collective::Group& group) {
    const std::size_t first = attention_replicated_ ? 1 : 0;  // slice of a virtual rank
    Division division;
    division.attention_replicated = attention_replicated_;
    for (std::size_t v = 0; v < group.virtual_ranks().size(); ++v) {
      const model::Slice& slice = backend_.slices()[first + v];
      division.vocab_of_virtual_rank.push_back(slice.vocab);
      if (slice.layers != model::kAll) division.layers_of_virtual_rank.push_back(slice.layers);
    }
    std::vector<std::size_t> active(first, 0);
    for (const std::size_t v : group.own()) active.push_back(first + v);
    backend_.activate(active);
    return division;
  }

 private:
  static std::vector<model::Slice> slices(std::span<const std::size_t> shares, bool replicated) {
    const model::ModelConfig config = integer_config({});
    auto slices = divide_integer_model(config, shares);
    if (!replicated) return slices;
    for (model::Slice& slice : slices) slice.heads = {};
    slices.insert(slices.begin(), {.heads = {0, kIntegerHeads},
                                   .expert_columns = {},
                                   .shared_columns = {},
                                   .dense_columns = {},
                                   .vocab = {},
                                   .embedding = false});
    return slices;
  }

  bool attention_replicated_;
  IntegerBackend backend_;
};

// Ranks 1 and up, as threads that follow until their epoch ends.
class Epoch {
 public:
  // `machines`: of the ranks.
  Epoch(transport::LoopbackFabric& fabric, std::uint32_t number, const Layout& layout,
        std::vector<Machine*> machines, std::size_t direct_bytes_max, const StepHooks& last_hooks)
      : machines_(std::move(machines)) {
    std::vector<std::thread> joining;
    transports_.resize(layout.n_ranks);
    for (std::size_t rank = 0; rank < layout.n_ranks; ++rank) {
      joining.emplace_back([&, rank] {
        transport::GroupSpec spec;
        spec.epoch = number;
        spec.rank = static_cast<transport::Rank>(rank);
        spec.ranks.resize(layout.n_ranks);
        auto joined = fabric.join(spec, Time::max(), nullptr);
        ASSERT_TRUE(joined);
        transports_[rank] = *std::move(joined);
      });
    }
    for (std::thread& thread : joining) thread.join();
    for (std::size_t rank = 0; rank < layout.n_ranks; ++rank) {
      groups_.push_back(std::make_unique<collective::Group>(
          transports_[rank].get(), clock_, layout.virtual_ranks,
          collective::GroupOptions{.hidden_size = kIntegerWidth,
                                   .direct_bytes_max = direct_bytes_max}));
    }
    for (std::size_t rank = 1; rank < layout.n_ranks; ++rank) {
      const StepHooks& hooks = rank + 1 == layout.n_ranks ? last_hooks : kNoHooks;
      threads_.emplace_back([this, rank, hooks] {
        Machine& machine = *machines_[rank];
        Ranks ranks{.group = groups_[rank].get(), .division = machine.join(*groups_[rank])};
        ASSERT_TRUE(check_division(ranks.division, *ranks.group, machine.backend()));
        while (follow_step(machine.backend(), ranks, hooks)) {
        }
      });
    }
  }
  Epoch(const Epoch&) = delete;
  ~Epoch() {
    transports_[0].reset();  // the others lose rank 0
    for (std::thread& thread : threads_) thread.join();
  }

  collective::Group& head() { return *groups_[0]; }

 private:
  inline static const StepHooks kNoHooks{};

  RealClock clock_;
  std::vector<Machine*> machines_;
  std::vector<std::unique_ptr<transport::Transport>> transports_;
  std::vector<std::unique_ptr<collective::Group>> groups_;
  std::vector<std::thread> threads_;
};

}  // namespace conclave::engine
