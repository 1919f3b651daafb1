// A placer for simulated pools: any division that fits, drawn from a seed. Shares are unequal and
// often empty, and some machines have none.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "cluster/head.h"
#include "sim/sim.h"

namespace conclave::cluster_sim {

// The model's weights are those of its experts' columns: so many bytes for 32 of them.
inline constexpr std::uint64_t kUnitBytes = 100;
inline constexpr std::uint64_t kCommonBytes = 40;
inline constexpr std::uint64_t kKvBytes = 50;
inline constexpr std::uint64_t kEmbeddingBytes = 30;

// What a machine must have to hold so many units.
std::uint64_t bytes_for(std::size_t units, bool is_head);

struct SimPlacerOptions {
  std::uint64_t seed = 0;
  std::size_t cover_losses = 1;
  std::size_t rows_max = 64;
  std::size_t pages = 12;
  bool exact = false;
};

class SimPlacer final : public cluster::Placer {
 public:
  SimPlacer(const model::ModelConfig& config, const SimPlacerOptions& options);

  // The same nodes get the same division.
  Result<cluster::Layout> place(std::span<const cluster::NodeFacts> nodes) override;

  std::size_t n_units() const { return n_units_; }

 private:
  std::vector<std::size_t> deal(sim::RandomStream& random, std::size_t n_units,
                                std::span<const std::size_t> rooms) const;

  const model::ModelConfig& config_;
  SimPlacerOptions options_;
  std::size_t n_units_;
};

// How many units fit.
std::size_t units_in(std::uint64_t usable_bytes, bool is_head);

}  // namespace conclave::cluster_sim
