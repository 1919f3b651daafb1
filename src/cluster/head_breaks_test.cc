// When an epoch ends, why, and with whom the next one begins.
#include <gtest/gtest.h>

#include "cluster/test_head.h"

namespace conclave::cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using wire::pb::Report;

// ---- Losses -------------------------------------------------------------------------------------

TEST_F(HeadTest, OthersTakeOverWhatASilentNodeComputed) {
  run(3);
  ASSERT_TRUE(submit(1));
  told_.clear();
  pass(milliseconds(1900), {2});
  EXPECT_EQ(epoch().epoch(), 1u);
  pass(milliseconds(200), {2});
  EXPECT_EQ(epoch().epoch(), 2u);
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_FALSE(epoch().fresh());
  // Group 2's virtual ranks are spread over both.
  EXPECT_NE(epoch().computed_by(3), epoch().computed_by(4));
  joined();
  EXPECT_TRUE(told_.empty()) << "the engine goes on with the step that broke";
}

TEST_F(HeadTest, AWorkerThatComesBackSoonTakesItsPlaceAgain) {
  run(3);
  ASSERT_TRUE(submit(1));
  worker_ends(1);
  EXPECT_FALSE(assigned_[0].has_epoch());
  pass(milliseconds(500));
  EXPECT_FALSE(assigned_[0].has_epoch()) << "it is waited for";
  ready(1);
  EXPECT_EQ(members(), nodes({0, 1, 2}));
  EXPECT_FALSE(epoch().fresh()) << "its KV cache is in its agent's memory";
}

TEST_F(HeadTest, AWorkerThatDoesNotComeBackIsNotWaitedForLong) {
  run(3);
  worker_ends(1);
  pass(milliseconds(1300));
  EXPECT_EQ(members(), nodes({0, 2}));
}

TEST_F(HeadTest, WhoHasLostItsKvCacheWaitsForAFreshEpoch) {
  run(3);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  told_.clear();
  worker_ends(1);
  ready(1, /*kv=*/999);
  joined();
  EXPECT_EQ(members(), nodes({0, 2})) << "the others' caches agree: they go on without it";
  EXPECT_FALSE(epoch().fresh());
}

TEST_F(HeadTest, TheHeadsWorkerComesBackWithoutItsEngine) {
  run(3);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  told_.clear();
  worker_ends(0);
  ready(0);
  ASSERT_TRUE(assigned_[0].has_epoch());
  EXPECT_TRUE(epoch().fresh());
  joined();
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].admit().attempt(), 2u);
  EXPECT_EQ(told_[0].admit().log_size(), 1);
}

TEST_F(HeadTest, WhoMissedAnEpochIsNotTakenIntoAnUnbrokenLine) {
  run(3);
  ASSERT_TRUE(submit(1));
  pass(milliseconds(2100), {2});
  joined();
  pass(milliseconds(200));  // it is back, with its old cache
  ASSERT_EQ(members(), nodes({0, 1}));
  says_broken(1, collective::Broken::Kind::kPeerLost, 0);
  pass(milliseconds(200));
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_FALSE(epoch().fresh());
  joined();
  token(1, 1, 0, engine::FinishReason::kLength);  // idle
  pass(milliseconds(200));
  EXPECT_EQ(members(), nodes({0, 1, 2}));
  EXPECT_TRUE(epoch().fresh());
}

// Its connection may be replaced before anybody says that the old one is gone.
TEST_F(HeadTest, ANodeThatWasStartedAgainEndsTheEpoch) {
  run(3);
  ASSERT_TRUE(submit(1));
  hello(2, /*life=*/2);
  EXPECT_EQ(members(), nodes({0, 1}));
}

TEST_F(HeadTest, AnotherLayoutIsAnotherBackend) {
  placer_.whole_groups = true;  // too large for the room that is left on one of the others
  make({.life = 41, .cover_losses = 0}, kGroupBytes * 3 / 2);
  run(3);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  told_.clear();
  pass(milliseconds(2100), {2});
  ASSERT_EQ(assigned_[0].layout().virtual_ranks_size(), 2) << "divided over two";
  ready(0);
  ready(1);
  ASSERT_TRUE(assigned_[0].has_epoch());
  EXPECT_TRUE(epoch().fresh());
  joined();
  ASSERT_EQ(told_.size(), 1u) << "its engine starts anew too";
  EXPECT_EQ(told_[0].admit().log_size(), 1);
}

// Then no link is to blame, however often it happens.
TEST_F(HeadTest, PeersMayNoticeTheEndOfAWorkerFirst) {
  run(3);
  ASSERT_TRUE(submit(1));
  for (int i = 0; i < 4; ++i) {
    says_broken(0, collective::Broken::Kind::kPeerLost, 1);
    worker_ends(1);
    pass(milliseconds(100));
    ready(1);
    ASSERT_EQ(members(), nodes({0, 1, 2})) << i;
    joined();
    token(1, told_.back().admit().attempt(), static_cast<std::uint64_t>(i));
  }
}

// ---- Hangs and bad links ------------------------------------------------------------------------

void wait_for(Report& report, int peer) {
  report.set_busy(true);
  report.set_waiting_for(peer);
}

TEST_F(HeadTest, TheEndOfAChainOfWaitsIsKilled) {
  run(3);
  wait_for(reports_[0], 1);
  wait_for(reports_[1], 2);
  wait_for(reports_[2], -1);
  pass(milliseconds(1900));
  EXPECT_TRUE(killed_.empty());
  pass(milliseconds(200));
  EXPECT_EQ(killed_, (std::map<std::uint64_t, std::uint32_t>{{2, 1}}));
  EXPECT_EQ(members(), nodes({0, 1})) << "others take over at once";
}

// Its agent counts its workers from 1 again.
TEST_F(HeadTest, ANewAgentsWorkerIsNotTheOneThatHung) {
  run(3);
  wait_for(reports_[2], -1);
  pass(milliseconds(2100));
  ASSERT_EQ(assigned_[2].kill_worker(), 1u);
  hello(2, /*life=*/2);
  ready(2);
  EXPECT_EQ(assigned_[2].kill_worker(), 0u);
}

// It names no peer: an address that means nothing to it, for instance.
TEST_F(HeadTest, WhoCannotJoinForAReasonOfItsOwnIsLeftOut) {
  run(3);
  for (int i = 0; i < 2; ++i) {
    says_broken(2, collective::Broken::Kind::kLate, transport::kRanksMax);
    pass(milliseconds(100));
  }
  EXPECT_EQ(members(), nodes({0, 1}));
}

TEST_F(HeadTest, AHeadThatCannotJoinFailsItsRequestsInTime) {
  run(3);
  ASSERT_TRUE(submit(1));
  const auto fail_for = [&](int tenths) {
    for (int i = 0; i < tenths; ++i) {
      says_broken(0, collective::Broken::Kind::kLate, transport::kRanksMax);
      says_broken(1, collective::Broken::Kind::kPeerLost, 0);  // its links have closed
      pass(milliseconds(100));
    }
  };
  fail_for(190);
  EXPECT_TRUE(failures_.empty());
  EXPECT_EQ(members(), nodes({0, 1, 2})) << "nobody else is to blame";
  fail_for(30);
  EXPECT_NE(failures_[1].find("the head's own rank cannot join: test"), std::string::npos);
}

TEST_F(HeadTest, ProgressIsNoHang) {
  run(3);
  wait_for(reports_[2], -1);
  for (int i = 0; i < 10; ++i) {
    pass(seconds(1));
    reports_[2].set_progress(reports_[2].progress() + 1);
  }
  EXPECT_TRUE(killed_.empty());
}

// A step that was lost on its way: rank 1 does not know that it is waited for.
TEST_F(HeadTest, AnEpochInWhichAllWaitForOneAnotherEnds) {
  run(3);
  wait_for(reports_[0], 1);
  pass(milliseconds(3900));
  EXPECT_EQ(last_epoch_, 1u);
  pass(milliseconds(300));
  EXPECT_EQ(last_epoch_, 2u);
  EXPECT_TRUE(killed_.empty());
}

TEST_F(HeadTest, ARankThatDoesNotAnswerToAnEpochHangs) {
  for (std::uint64_t node = 0; node < 3; ++node) hello(node);
  pass(milliseconds(350));
  for (const std::uint64_t node : {2u, 1u, 0u}) ready(node);
  pass(milliseconds(1600));
  says_broken(0, collective::Broken::Kind::kLate, 2);
  says_broken(1, collective::Broken::Kind::kLate, 2);
  pass(milliseconds(200));
  EXPECT_EQ(killed_, (std::map<std::uint64_t, std::uint32_t>{{2, 1}}));
  EXPECT_EQ(members(), nodes({0, 1}));
}

TEST_F(HeadTest, OfTwoThatDoNotReachEachOtherOneIsLeftOut) {
  run(3);
  for (int i = 0; i < 2; ++i) {
    pass(milliseconds(200));
    says_broken(1, collective::Broken::Kind::kLate, 2);
    says_broken(2, collective::Broken::Kind::kLate, 1);
    pass(milliseconds(200));
    joined();
  }
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_TRUE(killed_.empty());
  pass(seconds(10));
  EXPECT_EQ(members(), nodes({0, 1, 2})) << "it gets another chance";
}

TEST_F(HeadTest, NobodyIsLeftOutWhomTheOthersNeed) {
  make({.life = 41, .cover_losses = 0}, kGroupBytes);
  run(3);
  ASSERT_TRUE(submit(1));
  for (int i = 0; i < 100 && failures_.empty(); ++i) {
    pass(milliseconds(200));
    says_broken(1, collective::Broken::Kind::kLate, 2);
    pass(milliseconds(200));
    ASSERT_EQ(members(), nodes({0, 1, 2}));
  }
  EXPECT_GE(now_ - Time{}, seconds(20));
  EXPECT_NE(failures_[1].find("do not reach"), std::string::npos) << failures_[1];
}

}  // namespace
}  // namespace conclave::cluster
