#include "apps/plan_outcome.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

Subject subject_of(const PlanOptions& options) {
  const auto catalogue = load_catalogue("");
  CHECK(catalogue);
  const auto subject = make_subject(options, *catalogue, "");
  CHECK(subject);
  return *subject;
}

TEST(PlanOutcome, AFittingClusterHasAPlanAndEventsWhenAsked) {
  PlanOptions options;
  options.machines = "m3-ultra-512*4";
  options.link = "tb5-rdma";
  const auto plain = plan_subject(subject_of(options));
  ASSERT_TRUE(plain) << plain.error().message;
  ASSERT_TRUE(plain->fits());
  EXPECT_FALSE(plain->events);
  EXPECT_GT(plain->plan->single.tokens_per_second, 10.0);
  plan::EventOptions events;
  events.n_tokens = 4;
  const auto simulated = plan_subject(subject_of(options), events);
  ASSERT_TRUE(simulated);
  ASSERT_TRUE(simulated->events);
  EXPECT_EQ(simulated->events->token_seconds.size(), 4u);
}

TEST(PlanOutcome, OneThatDoesNotFitSaysHowManyWould) {
  PlanOptions options;
  options.machines = "m3-ultra-512";
  options.link = "tb5-rdma";
  const auto outcome = plan_subject(subject_of(options));
  ASSERT_TRUE(outcome) << outcome.error().message;
  EXPECT_FALSE(outcome->fits());
  EXPECT_FALSE(outcome->missing.empty());
  EXPECT_EQ(outcome->machines_needed, 2u);
}

}  // namespace
}  // namespace conclave::apps
