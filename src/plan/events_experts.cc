#include "plan/events_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace conclave::plan {
namespace {

// Draws in vain before the most popular expert that is left is taken: with the steepest popularity
// the last of eight experts needs some hundred.
constexpr std::size_t kRepeatsMax = 2000;

}  // namespace

ExpertDraws::ExpertDraws(const Cluster& cluster, const Placement& placement,
                         const sim::World& world, std::vector<double> read_seconds)
    : cluster_(cluster),
      read_seconds_(std::move(read_seconds)),
      random_(world.stream("experts")),
      popularity_(cluster.model.architecture.n_experts),
      count_(placement.ranks.size()) {
  double sum = 0.0;
  for (std::size_t e = 0; e < popularity_.size(); ++e) {
    sum += std::pow(static_cast<double>(e + 1), -cluster.workload.zipf);
    popularity_[e] = sum;
  }
  for (double& p : popularity_) p /= sum;
  // Each layer has its own favourites, so a rank that holds many in one holds few in another.
  const sim::RandomStream deal = world.stream("expert holders");
  for (std::size_t layer = 0; layer < cluster.model.architecture.n_layers; ++layer) {
    holders_.push_back(deal_experts(placement, deal.child(layer)));
  }
}

std::vector<ExpertDraws::Ranks> ExpertDraws::deal_experts(const Placement& placement,
                                                          sim::RandomStream random) const {
  struct Room {
    std::size_t left;
    std::uint64_t tie;
    std::uint16_t rank;
  };
  std::vector<Ranks> holders(popularity_.size());
  std::vector<std::size_t> left;
  for (const Rank& rank : placement.ranks) left.push_back(rank.n_experts);
  std::vector<Room> rooms(left.size());
  for (Ranks& ranks : holders) {
    for (std::size_t r = 0; r < left.size(); ++r) {
      rooms[r] = {left[r], random.next(), static_cast<std::uint16_t>(r)};
    }
    // The ranks with the most room first: then copies of one expert always find different ranks.
    std::sort(rooms.begin(), rooms.end(), [](const Room& a, const Room& b) {
      return a.left != b.left ? a.left > b.left : a.tie < b.tie;
    });
    for (std::size_t c = 0; c < placement.expert_copies; ++c) {
      CHECK(c < rooms.size() && rooms[c].left > 0);
      ranks.push_back(rooms[c].rank);
      --left[rooms[c].rank];
    }
  }
  return holders;
}

void ExpertDraws::choose(sim::RandomStream& random, std::vector<std::size_t>& chosen) {
  const auto is_chosen = [&chosen](std::size_t e) {
    return std::find(chosen.begin(), chosen.end(), e) != chosen.end();
  };
  chosen.clear();
  while (chosen.size() < cluster_.model.architecture.experts_per_token) {
    std::size_t expert = 0;
    std::size_t n_draws = 0;
    do {
      const auto it = std::lower_bound(popularity_.begin(), popularity_.end(), random.uniform());
      expert = std::min(static_cast<std::size_t>(it - popularity_.begin()), popularity_.size() - 1);
    } while (is_chosen(expert) && ++n_draws < kRepeatsMax);
    if (is_chosen(expert)) {
      for (expert = 0; is_chosen(expert);) ++expert;
    }
    chosen.push_back(expert);
  }
}

std::vector<std::uint8_t> ExpertDraws::experts_used(std::size_t token, std::size_t layer) {
  const Workload& workload = cluster_.workload;
  const sim::RandomStream step = random_.child(token).child(layer);
  std::vector<std::uint8_t> used(popularity_.size(), 0);
  std::vector<std::size_t> chosen;
  for (std::size_t stream = 0; stream < workload.batch; ++stream) {
    sim::RandomStream random = step.child(stream);
    choose(random, chosen);
    for (const std::size_t e : chosen) used[e] = 1;
    for (std::size_t draft = 0; draft < workload.speculation.draft_tokens; ++draft) {
      choose(random, chosen);
      // The rest are experts of the token before.
      for (const std::size_t e : chosen) {
        if (!random.chance(workload.speculation.expert_overlap)) used[e] = 1;
      }
    }
  }
  return used;
}

const std::vector<std::size_t>& ExpertDraws::read_by_rank(std::size_t token, std::size_t layer) {
  if (token == token_ && layer == layer_) return count_;
  token_ = token;
  layer_ = layer;
  std::fill(count_.begin(), count_.end(), 0);
  const std::vector<std::uint8_t> used = experts_used(token, layer);
  for (std::size_t e = 0; e < used.size(); ++e) {
    if (used[e] == 0) continue;
    const auto finish = [this](std::uint16_t rank) {
      return static_cast<double>(count_[rank] + 1) * read_seconds_[rank];
    };
    const Ranks& ranks = holders_[layer][e];
    ++count_[*std::min_element(ranks.begin(), ranks.end(), [&](std::uint16_t a, std::uint16_t b) {
      return finish(a) < finish(b);
    })];
  }
  return count_;
}

}  // namespace conclave::plan
