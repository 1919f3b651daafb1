#include "cluster/link_survey.h"

#include <gtest/gtest.h>

#include <array>

namespace conclave::cluster {
namespace {

using Pair = LinkSurvey::Pair;
constexpr NodeId kA{1}, kB{2}, kC{3}, kD{4};
constexpr Time kStart{};

TEST(LinkSurvey, NoMachineTakesPartInTwoAtOnce) {
  LinkSurvey survey;
  survey.add(std::array{Pair{kA, kB}, Pair{kB, kA}, Pair{kB, kC}, Pair{kC, kD}});
  const auto first = survey.next(kStart);
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[0].pair, (Pair{kA, kB}));
  EXPECT_EQ(first[1].pair, (Pair{kC, kD}));
  EXPECT_TRUE(survey.next(kStart).empty());
  EXPECT_EQ(survey.left(), 4u);
  EXPECT_EQ(survey.find(first[0].id), (Pair{kA, kB}));
  EXPECT_EQ(survey.on_answer(first[0].id), (Pair{kA, kB}));
  EXPECT_EQ(survey.on_answer(first[0].id), std::nullopt);
  const auto second = survey.next(kStart);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].pair, (Pair{kB, kA}));
  EXPECT_NE(second[0].id, first[0].id);
}

TEST(LinkSurvey, WhatIsWantedAlreadyIsNotWantedTwice) {
  LinkSurvey survey;
  survey.add(std::array{Pair{kA, kB}, Pair{kA, kB}});
  EXPECT_EQ(survey.left(), 1u);
  ASSERT_EQ(survey.next(kStart).size(), 1u);
  survey.add(std::array{Pair{kA, kB}});
  EXPECT_EQ(survey.left(), 1u);
}

TEST(LinkSurvey, SilenceEndsAndSaysWhose) {
  LinkSurvey survey;
  survey.add(std::array{Pair{kA, kB}, Pair{kB, kC}});
  const auto asked = survey.next(kStart);
  EXPECT_TRUE(survey.on_tick(kStart + LinkSurvey::kPatience - Duration(1)).empty());
  const auto late = survey.on_tick(kStart + LinkSurvey::kPatience);
  ASSERT_EQ(late.size(), 1u);
  EXPECT_EQ(late[0], (Pair{kA, kB}));
  EXPECT_EQ(survey.on_answer(asked[0].id), std::nullopt);  // too late
  EXPECT_EQ(survey.next(kStart).size(), 1u);
}

TEST(LinkSurvey, AMachineThatGoesTakesItsPairsAlong) {
  LinkSurvey survey;
  survey.add(std::array{Pair{kA, kB}, Pair{kB, kC}, Pair{kC, kA}});
  survey.next(kStart);
  survey.drop(kB);
  EXPECT_EQ(survey.under_way(), 0u);
  const auto asked = survey.next(kStart);
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].pair, (Pair{kC, kA}));
}

}  // namespace
}  // namespace conclave::cluster
