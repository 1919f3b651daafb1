// Which experts are chosen most, and who gets copies of them (strategy `expert`). docs/design.md 3.
#pragma once

#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "wire/wire.h"

namespace conclave::cluster {

struct ExpertCounts {
  std::size_t n_layers = 0;
  std::size_t n_experts = 0;
  std::vector<std::uint64_t> chosen;  // [layers, experts]: tokens that chose it; 0 in dense layers

  std::uint64_t of(std::size_t layer, std::size_t expert) const {
    return chosen[layer * n_experts + expert];
  }
  std::uint64_t sum() const { return std::accumulate(chosen.begin(), chosen.end(), 0ull); }
  bool operator==(const ExpertCounts&) const = default;
};

// A text file of numbers, a line for each layer.
std::string to_text(const ExpertCounts& counts);
// kCorrupt: not such a file.
Result<ExpertCounts> parse_expert_counts(std::string_view text);

// Adds up what workers count, each from its own start. A new worker that has overtaken the old one
// everywhere before it is asked is taken for the same.
class ExpertTally {
 public:
  // `before`: what earlier runs counted.
  ExpertTally(const model::ModelConfig& config, const std::optional<ExpertCounts>& before);
  // Counts of the worker that computes now. What is not of this model is ignored.
  void update(const wire::pb::Trace& trace);
  const ExpertCounts& total() const { return total_; }

 private:
  ExpertCounts base_;   // of workers that are gone
  ExpertCounts total_;  // with the present one
};

// Where copies have room: bytes that remain on each group's home.
struct ReplicaRoom {
  std::vector<double> group_bytes;
  double expert_bytes = 0.0;  // of one expert of one layer
  // What of a copy every other home keeps as a backup; the first group's have none.
  double backup_share = 0.0;

  bool allows(std::size_t group) const;
  void take(std::size_t group);
};
// Gives the `n_hot` most chosen experts of each layer one copy each, in `replicas` of the group
// that then has least to do among those with room, the hottest of all layers first. `groups`: a
// slice for each group, as slices_of makes them for strategy `expert`. Pure.
void add_replicas(const model::ModelConfig& config, const ExpertCounts& counts, std::size_t n_hot,
                  ReplicaRoom room, std::span<model::Slice> groups);

}  // namespace conclave::cluster
