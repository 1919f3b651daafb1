// Who computes an expert that several slices hold: strategy `expert` with replicas of hot experts.
//
// The choice depends on one row's experts alone, so neither load nor the rest of a batch ever
// changes a bit, and every rank comes to the same choice without a message. docs/design.md 3.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"

namespace conclave::backend {

inline constexpr std::uint16_t kAnyMember = 0xffff;  // whoever holds it: there is only one

// A slice of the division and the group (machine, when the model was placed) that it belongs to.
struct DivisionMember {
  model::Slice slice;
  std::size_t group = 0;
};

// Threads: immutable.
class ExpertDivision {
 public:
  // All slices of the model: each expert is in `experts` of one of them; fewer than kAnyMember.
  ExpertDivision(const model::ModelConfig& config, std::span<const DivisionMember> members);

  bool has_replicas(LayerId layer) const { return !layers_[layer.value].empty(); }
  // Members for one row's experts [K], which ascend: kAnyMember where an expert has no replica;
  // else, one after the other, the holder whose group has least to do for this row so far, measured
  // by the experts of its own. Ties go to the home, then to the first.
  void assign(LayerId layer, std::span<const ExpertId> experts,
              std::span<std::uint16_t> members) const;
  // CHECKs that it is a member.
  std::size_t index_of(const model::Slice& slice) const;

 private:
  struct Replicated {
    ExpertId expert;
    std::vector<std::uint16_t> members;  // the home first
  };
  const Replicated* find(LayerId layer, ExpertId expert) const;

  std::vector<DivisionMember> members_;
  std::vector<std::uint16_t> home_;              // [experts]: member
  std::vector<std::uint64_t> own_;               // [groups]: experts of its own, in each layer
  std::vector<std::vector<Replicated>> layers_;  // ascending by expert
};

}  // namespace conclave::backend
