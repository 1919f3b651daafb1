#include "backend/expert_division.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace conclave::backend {
namespace {

model::ModelConfig config() {
  model::ModelConfig config;
  config.n_layers = 2;
  config.n_dense_layers = 0;
  config.n_experts = 12;
  config.experts_per_token = 4;
  return config;
}

model::LayerExpert at(std::uint16_t layer, std::uint16_t expert) {
  return {LayerId{layer}, ExpertId{expert}};
}

// Three machines of six, three and three experts; the second is cut in two. Layer 1 has copies of
// 0, 1 and 2 with each of the others, layer 0 none.
std::vector<DivisionMember> members() {
  const auto member = [](kernels::Range experts, std::vector<model::LayerExpert> copies,
                         std::size_t group) {
    DivisionMember made{.slice = model::Slice{}, .group = group};
    made.slice.experts = experts;
    made.slice.replicas = std::move(copies);
    return made;
  };
  return {member({0, 6}, {}, 0), member({6, 8}, {at(1, 0)}, 1),
          member({8, 9}, {at(1, 1), at(1, 2)}, 1),
          member({9, 12}, {at(1, 0), at(1, 1), at(1, 2)}, 2)};
}

std::vector<std::uint16_t> assigned(const ExpertDivision& division, std::uint16_t layer,
                                    std::initializer_list<std::uint16_t> experts) {
  std::vector<ExpertId> ids;
  for (const std::uint16_t e : experts) ids.push_back(ExpertId{e});
  std::vector<std::uint16_t> members(ids.size());
  division.assign(LayerId{layer}, ids, members);
  return members;
}

TEST(ExpertDivision, WithoutCopiesThereIsNothingToDecide) {
  const ExpertDivision division(config(), members());
  EXPECT_FALSE(division.has_replicas(LayerId{0}));
  EXPECT_TRUE(division.has_replicas(LayerId{1}));
  const std::uint16_t any = kAnyMember;
  EXPECT_EQ(assigned(division, 0, {0, 1, 2, 9}), (std::vector{any, any, any, any}));
  EXPECT_EQ(assigned(division, 1, {3, 4, 5, 9}), (std::vector{any, any, any, any}));
}

TEST(ExpertDivision, WhoHasLeastToDoForItsSpeedComputes) {
  const ExpertDivision division(config(), members());
  const std::uint16_t any = kAnyMember;
  // Machine 0 is twice as fast: (load + 1) / 6 against (load + 1) / 3.
  EXPECT_EQ(assigned(division, 1, {0, 6, 7, 9}), (std::vector<std::uint16_t>{0, any, any, any}));
  EXPECT_EQ(assigned(division, 1, {0, 3, 4, 9}), (std::vector<std::uint16_t>{1, any, any, any}));
  EXPECT_EQ(assigned(division, 1, {2, 3, 4, 6}), (std::vector<std::uint16_t>{3, any, any, any}));
  EXPECT_EQ(assigned(division, 1, {0, 1, 2, 3}), (std::vector<std::uint16_t>{0, 2, 3, any}))
      << "a draw goes to the home, then to the first";
}

TEST(ExpertDivision, EveryExpertIsComputedByOneThatHoldsIt) {
  const std::vector<DivisionMember> all = members();
  const ExpertDivision division(config(), all);
  SplitMix rng(7);
  for (int i = 0; i < 200; ++i) {
    std::set<std::uint16_t> drawn;
    while (drawn.size() < 4) drawn.insert(static_cast<std::uint16_t>(rng.next() % 12));
    const std::vector<std::uint16_t> row(drawn.begin(), drawn.end());
    const auto chosen = assigned(division, 1, {row[0], row[1], row[2], row[3]});
    for (std::size_t k = 0; k < 4; ++k) {
      if (chosen[k] == kAnyMember) {
        EXPECT_GT(row[k], 2);
      } else {
        EXPECT_TRUE(all[chosen[k]].slice.holds(LayerId{1}, ExpertId{row[k]}));
      }
    }
  }
}

TEST(ExpertDivision, KnowsItsMembers) {
  const std::vector<DivisionMember> all = members();
  const ExpertDivision division(config(), all);
  for (std::size_t m = 0; m < all.size(); ++m) EXPECT_EQ(division.index_of(all[m].slice), m);
}

}  // namespace
}  // namespace conclave::backend
