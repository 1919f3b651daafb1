#include "cluster/hot_experts.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/check.h"

namespace conclave::cluster {
namespace {

constexpr std::string_view kMagic = "conclave-expert-counts-1";
constexpr std::size_t kLayersMax = 1024;
constexpr std::size_t kExpertsMax = 4096;

// Numbers between blanks.
class NumberReader {
 public:
  explicit NumberReader(std::string_view text) : rest_(text) {}

  std::optional<std::uint64_t> next() {
    skip_blanks();
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) return std::nullopt;
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return value;
  }
  bool at_end() {
    skip_blanks();
    return rest_.empty();
  }

 private:
  void skip_blanks() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n"), rest_.size()));
  }

  std::string_view rest_;
};

// Experts of one layer, most chosen first; those that nobody chose are left out.
std::vector<std::size_t> hottest(const ExpertCounts& counts, std::size_t layer, std::size_t n) {
  std::vector<std::size_t> order(counts.n_experts);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    return counts.of(layer, a) > counts.of(layer, b);
  });
  order.resize(std::min(n, order.size()));
  std::erase_if(order, [&](std::size_t e) { return counts.of(layer, e) == 0; });
  return order;
}

// What the groups have to do in one layer, as far as copies are given out.
class LayerLoad {
 public:
  LayerLoad(const ExpertCounts& counts, std::size_t layer, std::span<const model::Slice> groups)
      : counts_(counts), layer_(layer), groups_(groups), load_(groups.size(), 0.0) {
    for (std::size_t g = 0; g < groups.size(); ++g) {
      for (std::size_t e = groups[g].experts.begin; e < groups[g].experts.end; ++e) {
        load_[g] += static_cast<double>(counts.of(layer, e));
      }
    }
  }

  // The group that would have least to do with a copy of this expert; none where nobody has room.
  std::optional<std::size_t> best(std::size_t expert, const ReplicaRoom& room) const {
    std::optional<std::size_t> found;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const bool can = groups_[g].experts.size() > 0 &&
                       !model::contains(groups_[g].experts, expert) && room.allows(g);
      if (can && (!found || busy_with(expert, g) < busy_with(expert, *found))) found = g;
    }
    return found;
  }

  // The copy takes half of the expert's tokens.
  void give(std::size_t expert, std::size_t group) {
    const double half = half_of(expert);
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (model::contains(groups_[g].experts, expert)) load_[g] -= half;
    }
    load_[group] += half;
  }

 private:
  // Experts are dealt by speed, so a group's number of them says how fast it is.
  double busy_with(std::size_t expert, std::size_t g) const {
    return (load_[g] + half_of(expert)) / static_cast<double>(groups_[g].experts.size());
  }
  double half_of(std::size_t expert) const {
    return 0.5 * static_cast<double>(counts_.of(layer_, expert));
  }

  const ExpertCounts& counts_;
  std::size_t layer_;
  std::span<const model::Slice> groups_;
  std::vector<double> load_;
};

}  // namespace

bool ReplicaRoom::allows(std::size_t group) const {
  for (std::size_t g = 0; g < group_bytes.size(); ++g) {
    const double share = g == group ? 1.0 : (group == 0 ? 0.0 : backup_share);
    if (share > 0.0 && group_bytes[g] < share * expert_bytes) return false;
  }
  return true;
}

void ReplicaRoom::take(std::size_t group) {
  for (std::size_t g = 0; g < group_bytes.size(); ++g) {
    group_bytes[g] -= expert_bytes * (g == group ? 1.0 : (group == 0 ? 0.0 : backup_share));
  }
}

std::string to_text(const ExpertCounts& counts) {
  std::string text = std::string(kMagic) + "\n" + std::to_string(counts.n_layers) + " " +
                     std::to_string(counts.n_experts) + "\n";
  for (std::size_t layer = 0; layer < counts.n_layers; ++layer) {
    for (std::size_t e = 0; e < counts.n_experts; ++e) {
      text += std::to_string(counts.of(layer, e));
      text += e + 1 < counts.n_experts ? ' ' : '\n';
    }
  }
  return text;
}

Result<ExpertCounts> parse_expert_counts(std::string_view text) {
  if (!text.starts_with(kMagic)) return corrupt("expert counts: not such a file");
  NumberReader reader(text.substr(kMagic.size()));
  const std::uint64_t layers = reader.next().value_or(0);
  const std::uint64_t experts = reader.next().value_or(0);
  if (layers == 0 || layers > kLayersMax || experts == 0 || experts > kExpertsMax) {
    return corrupt("expert counts: " + std::to_string(layers) + " layers of " +
                   std::to_string(experts) + " experts");
  }
  ExpertCounts counts{.n_layers = layers, .n_experts = experts, .chosen = {}};
  for (std::uint64_t i = 0; i < layers * experts; ++i) {
    const std::optional<std::uint64_t> count = reader.next();
    if (!count) return corrupt("expert counts: no number at place " + std::to_string(i));
    counts.chosen.push_back(*count);
  }
  if (!reader.at_end()) return corrupt("expert counts: more numbers than experts");
  return counts;
}

ExpertTally::ExpertTally(const model::ModelConfig& config,
                         const std::optional<ExpertCounts>& before) {
  base_ = {.n_layers = config.n_layers,
           .n_experts = config.n_experts,
           .chosen = std::vector<std::uint64_t>(config.n_layers * config.n_experts, 0)};
  if (before && before->n_layers == base_.n_layers && before->n_experts == base_.n_experts) {
    base_ = *before;
  }
  total_ = base_;
}

void ExpertTally::update(const wire::pb::Trace& trace) {
  const auto n = static_cast<std::size_t>(trace.expert_counts_size());
  if (trace.n_experts() != base_.n_experts || n != base_.chosen.size()) return;
  const auto counted = [&trace](std::size_t i) { return trace.expert_counts(static_cast<int>(i)); };
  bool fell = false;  // another worker, which began at zero
  for (std::size_t i = 0; i < n; ++i)
    fell = fell || counted(i) < total_.chosen[i] - base_.chosen[i];
  if (fell) base_ = total_;
  for (std::size_t i = 0; i < n; ++i) total_.chosen[i] = base_.chosen[i] + counted(i);
}

void add_replicas(const model::ModelConfig& config, const ExpertCounts& counts, std::size_t n_hot,
                  ReplicaRoom room, std::span<model::Slice> groups) {
  CHECK(room.group_bytes.size() == groups.size() && room.expert_bytes > 0.0);
  CHECK(counts.n_layers == config.n_layers && counts.n_experts == config.n_experts);
  std::vector<std::vector<std::size_t>> hot(config.n_layers);
  std::vector<LayerLoad> loads;
  for (std::size_t layer = 0; layer < config.n_layers; ++layer) {
    if (config.is_moe(LayerId{static_cast<std::uint16_t>(layer)})) {
      hot[layer] = hottest(counts, layer, n_hot);
    }
    loads.emplace_back(counts, layer, groups);
  }
  for (std::size_t nth = 0; nth < n_hot; ++nth) {
    for (std::size_t layer = 0; layer < config.n_layers; ++layer) {
      if (nth >= hot[layer].size()) continue;
      const std::size_t expert = hot[layer][nth];
      const std::optional<std::size_t> group = loads[layer].best(expert, room);
      if (!group) continue;
      loads[layer].give(expert, *group);
      room.take(*group);
      groups[*group].replicas.push_back({LayerId{static_cast<std::uint16_t>(layer)},
                                         ExpertId{static_cast<std::uint16_t>(expert)}});
    }
  }
  for (model::Slice& slice : groups) std::ranges::sort(slice.replicas);
}

}  // namespace conclave::cluster
