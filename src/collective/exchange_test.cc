// Sums over all layouts of the same virtual ranks, against plain loops: equal to the last bit.
#include "collective/exchange.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <thread>

#include "base/number_formats.h"
#include "base/rng.h"
#include "collective/memory_fabric_test.h"

namespace conclave::collective {
namespace {

constexpr std::size_t kWidth = 6;
constexpr std::size_t kExpertsPerToken = 2;
constexpr std::size_t kExchanges = 4;  // one after the other, so that fast ranks run ahead

using Vector = std::vector<float>;

Vector random_rows(std::uint64_t key, std::size_t n_rows) {
  SplitMix random(key);
  Vector rows(n_rows * kWidth);
  for (float& x : rows) x = static_cast<float>((random.uniform() - 0.5) * 1e3 * random.uniform());
  return rows;
}

std::vector<ExpertId> experts_for(std::size_t n_rows, std::uint16_t first) {
  std::vector<ExpertId> experts;
  for (std::size_t i = 0; i < n_rows * kExpertsPerToken; ++i) {
    experts.push_back(ExpertId{static_cast<std::uint16_t>(first + i % kExpertsPerToken)});
  }
  return experts;
}

struct Case {
  std::vector<VirtualRank> layout;
  std::size_t n_ranks = 1;
  std::size_t n_rows = 1;
  Wire wire = Wire::kF32;
  bool large = false;
  std::vector<Rank> misrouting = {};  // ranks that choose other experts than rank 0
  bool routing = false;
};

// A virtual rank's partials; those of a wrong routing are others.
Vector partial_of(const Case& c, std::size_t exchange, std::size_t v, std::uint16_t first_expert) {
  return random_rows(hash_combine(hash_combine(exchange, v), first_expert), c.n_rows);
}

float round_as(Wire wire, float x) {
  return wire == Wire::kF32 ? x : bf16_to_float(float_to_bf16(x));
}

Vector expected(const Case& c, std::size_t exchange, Vector hidden) {
  std::size_t v = 0;
  for (; v < c.layout.size() && c.layout[v].group == 0; ++v) {
    const Vector partial = partial_of(c, exchange, v, 0);
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] += partial[i];
  }
  while (v < c.layout.size()) {
    const std::uint16_t group = c.layout[v].group;
    Vector sum;
    for (; v < c.layout.size() && c.layout[v].group == group; ++v) {
      const Vector partial = partial_of(c, exchange, v, 0);
      for (std::size_t i = 0; i < hidden.size(); ++i) {
        const float x = round_as(c.wire, partial[i]);
        if (sum.size() < hidden.size()) {
          sum.push_back(x);
        } else {
          sum[i] += x;
        }
      }
    }
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] += round_as(c.wire, sum[i]);
  }
  return hidden;
}

struct Outcome {
  Vector hidden;
  GroupStats stats;
};

// What one rank does: all exchanges, the sum of one being the residual of the next.
void run_rank(const Case& c, transport::Transport* transport, Outcome& outcome) {
  const RealClock clock;
  Group group(transport, clock, c.layout,
              {.hidden_size = kWidth,
               .wire = c.wire,
               .direct_bytes_max = c.large ? 0 : std::size_t{1} << 20});
  const Rank self = group.rank();
  const bool misroutes = std::ranges::count(c.misrouting, self) != 0;
  Vector hidden(c.n_rows * kWidth, 777.0f);  // rank 0 has the residual, others anything
  if (self == 0) hidden = random_rows(99, c.n_rows);
  for (std::size_t exchange = 0; exchange < kExchanges; ++exchange) {
    std::uint16_t first = misroutes ? static_cast<std::uint16_t>(self) : 0;
    std::vector<Vector> partials;
    const auto compute = [&] {
      partials.clear();
      for (const std::size_t v : group.own()) {
        partials.push_back(partial_of(c, exchange, v, first));
      }
    };
    compute();
    const auto experts = experts_for(c.n_rows, first);
    const Vector weights(experts.size(), 0.25f * static_cast<float>(self + 1));
    RoutingCheck routing{.experts = experts, .weights = weights, .recompute = {}};
    routing.recompute = [&](std::span<const ExpertId> chosen,
                            std::span<const float> their_weights) -> Result<void> {
      EXPECT_TRUE(std::ranges::equal(chosen, experts_for(c.n_rows, 0)));
      EXPECT_EQ(their_weights.size(), chosen.size());
      for (const float weight : their_weights) EXPECT_EQ(weight, 0.25f);
      EXPECT_NE(first, 0);
      first = chosen[0].value;
      compute();
      return {};
    };
    const Tag tag{.step = 5,
                  .layer = static_cast<std::uint16_t>(exchange),
                  .phase = exchange % 2 == 0 ? wire::Phase::kAttention : wire::Phase::kFeedForward};
    const auto done = group.exchange(
        tag, [&](std::size_t i) { return std::span<const float>(partials[i]); }, hidden,
        c.routing ? &routing : nullptr);
    ASSERT_TRUE(done) << done.error().message;
  }
  outcome = {std::move(hidden), group.stats()};
}

std::vector<Outcome> run_case(const Case& c, std::uint64_t seed = 1) {
  std::vector<Outcome> outcomes(c.n_ranks);
  if (c.n_ranks == 1) {
    run_rank(c, nullptr, outcomes[0]);
    return outcomes;
  }
  MemoryFabric fabric(c.n_ranks, seed);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < c.n_ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { run_rank(c, &fabric.at(static_cast<Rank>(rank)), outcomes[rank]); });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

void check_case(const Case& c, std::uint64_t seed = 1) {
  Vector hidden = random_rows(99, c.n_rows);
  for (std::size_t exchange = 0; exchange < kExchanges; ++exchange) {
    hidden = expected(c, exchange, std::move(hidden));
  }
  const auto outcomes = run_case(c, seed);
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    ASSERT_EQ(outcomes[rank].hidden.size(), hidden.size());
    ASSERT_EQ(std::memcmp(outcomes[rank].hidden.data(), hidden.data(), hidden.size() * 4), 0)
        << "rank " << rank << " of " << c.n_ranks << ", " << c.n_rows << " rows, large " << c.large
        << ", bf16 " << (c.wire == Wire::kBF16);
    const GroupStats& stats = outcomes[rank].stats;
    EXPECT_EQ(stats.exchanges, kExchanges);
    EXPECT_EQ(stats.rounds, c.n_ranks == 1 ? 0 : kExchanges * (c.large ? 2 : 1));
    const bool repairs = c.routing && !c.misrouting.empty();
    EXPECT_EQ(stats.repairs, repairs ? kExchanges : 0);
    EXPECT_EQ(stats.mismatches, repairs ? kExchanges * c.misrouting.size() : 0);
  }
}

// Virtual ranks of groups {2, 1, 3, 2} on these ranks.
std::vector<VirtualRank> eight(std::array<Rank, 8> ranks) {
  constexpr std::array<std::uint16_t, 8> kGroups{0, 0, 1, 2, 2, 2, 3, 3};
  std::vector<VirtualRank> layout;
  for (std::size_t v = 0; v < 8; ++v) layout.push_back({kGroups[v], ranks[v]});
  return layout;
}

struct NamedLayout {
  std::vector<VirtualRank> layout;
  std::size_t n_ranks;
};

std::vector<NamedLayout> layouts() {
  return {
      {eight({0, 0, 0, 0, 0, 0, 0, 0}), 1}, {eight({0, 0, 1, 1, 1, 1, 1, 1}), 2},
      {eight({0, 0, 1, 2, 2, 2, 0, 0}), 3},  // rank 0 took over group 3
      {eight({0, 0, 1, 2, 2, 2, 1, 2}), 3},  // two ranks took it over
      {eight({0, 0, 1, 0, 1, 2, 2, 2}), 3},  // three took over group 2
      {eight({0, 0, 1, 2, 2, 2, 3, 3}), 4},  // as placed
      {eight({0, 0, 1, 2, 2, 2, 4, 4}), 5},  // rank 3 computes nothing
      {eight({0, 0, 4, 3, 1, 3, 2, 1}), 5},
  };
}

TEST(Exchange, EveryLayoutGivesTheBitsOfOneRank) {
  for (const NamedLayout& named : layouts()) {
    for (const Wire wire : {Wire::kF32, Wire::kBF16}) {
      for (const std::size_t n_rows : {1u, 2u, 3u, 5u, 17u, 40u}) {
        for (const bool large : {false, true}) {
          check_case({.layout = named.layout,
                      .n_ranks = named.n_ranks,
                      .n_rows = n_rows,
                      .wire = wire,
                      .large = large && named.n_ranks > 1},
                     n_rows);
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

TEST(Exchange, EveryNumberOfRowsBothWays) {
  for (std::size_t n_rows = 1; n_rows <= 40; ++n_rows) {
    for (const bool large : {false, true}) {
      check_case({.layout = eight({0, 0, 1, 2, 2, 2, 1, 2}),
                  .n_ranks = 3,
                  .n_rows = n_rows,
                  .large = large,
                  .routing = n_rows % 2 == 0},
                 n_rows);
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Exchange, RanksThatRouteDifferentlySendAgain) {
  const std::vector<std::vector<Rank>> sets{{}, {1}, {3}, {1, 2}, {1, 2, 3, 4}};
  for (const auto& misrouting : sets) {
    for (const Wire wire : {Wire::kF32, Wire::kBF16}) {
      for (const std::size_t n_rows : {1u, 7u}) {
        for (const bool large : {false, true}) {
          check_case({.layout = eight({0, 0, 1, 2, 2, 2, 4, 1}),
                      .n_ranks = 5,
                      .n_rows = n_rows,
                      .wire = wire,
                      .large = large,
                      .misrouting = misrouting,
                      .routing = true},
                     n_rows);
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

// The checks above would also hold if every rank computed the same wrong thing for a misrouting.
TEST(Exchange, WithoutTheCheckAMisroutingWouldShow) {
  const Case wrong{.layout = eight({0, 0, 1, 1, 1, 1, 1, 1}), .n_ranks = 2, .misrouting = {1}};
  Case right = wrong;
  right.misrouting = {};
  EXPECT_NE(run_case(wrong)[0].hidden, run_case(right)[0].hidden);
}

}  // namespace
}  // namespace conclave::collective
