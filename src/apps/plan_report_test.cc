#include "apps/plan_report.h"

#include <gtest/gtest.h>

#include <sstream>

#include "apps/plan_format.h"

namespace conclave::apps {
namespace {

Outcome outcome_of(const PlanOptions& options) {
  const auto catalogue = load_catalogue("");
  CHECK(catalogue);
  const auto subject = make_subject(options, *catalogue, "");
  CHECK(subject);
  const auto outcome =
      options.events ? plan_subject(*subject, plan::EventOptions{}) : plan_subject(*subject);
  CHECK(outcome);
  return *outcome;
}

PlanOptions four_machines() {
  PlanOptions options;
  options.machines = "m3-ultra-512*4";
  options.link = "tb5-rdma";
  return options;
}

void expect_words(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
}

TEST(PlanReport, SaysEverythingThatIsAskedOfIt) {
  PlanOptions options = four_machines();
  options.batch = 8;
  options.events = true;
  const std::string text = report_text(outcome_of(options), 80);
  expect_words(text, {"strategy",
                      "m3-ultra-512-4",
                      "share",
                      "weights",
                      "KV",
                      "backup",
                      "free",
                      "fits",
                      "tokens per second",
                      "batch 1",
                      "batch 8",
                      "first token of 2048",
                      "memory",
                      "imbalance",
                      "compute",
                      "dispatch",
                      "exchange",
                      "#",
                      "roofline",
                      "watts",
                      "joules per token",
                      "USD per million",
                      "survives",
                      "limit",
                      "would help",
                      "by events",
                      "assumed",
                      "--model kimi-k2-thinking"});
}

TEST(PlanReport, FitsTheColumnsItIsGiven) {
  for (const char* machines : {"m3-ultra-512*4", "m3-ultra-512", "m3-ultra-512*3,m4-max-128*25"}) {
    PlanOptions options = four_machines();
    options.machines = machines;
    options.batch = 8;
    const Outcome outcome = outcome_of(options);
    for (const std::size_t columns : {60u, 70u, 80u, 100u, 400u}) {
      std::istringstream lines(report_text(outcome, columns));
      for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(columns_of(line), std::min<std::size_t>(columns, kReportColumns)) << line;
      }
    }
  }
}

TEST(PlanReport, LongNamesGetTheRoomThereIs) {
  Outcome outcome = outcome_of(four_machines());
  outcome.cluster.pool.machines[0].name = "the-machine-in-the-meeting-room-upstairs";
  EXPECT_NE(report_text(outcome, 100).find("the-machine-in-the-meeting-room-upstairs "),
            std::string::npos);
  EXPECT_NE(report_text(outcome, 60).find("the-machin..tairs "), std::string::npos);
}

TEST(PlanReport, APartThatShowsAsNothingHasNoBar) {
  Outcome outcome = outcome_of(four_machines());
  outcome.plan->prediction.split.compute = 4e-7;
  std::istringstream lines(report_text(outcome, 80));
  bool seen = false;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("  compute")) continue;
    seen = true;
    EXPECT_EQ(line.find('#'), std::string::npos) << line;
  }
  EXPECT_TRUE(seen);
}

TEST(PlanReport, OneStreamHasOneColumn) {
  const std::string text = report_text(outcome_of(four_machines()), 80);
  EXPECT_EQ(text.find("of each stream"), std::string::npos);
}

TEST(PlanReport, WhatDoesNotFitIsSaidWithWhatWould) {
  PlanOptions options = four_machines();
  options.machines = "m3-ultra-512";
  const std::string text = report_text(outcome_of(options), 80);
  expect_words(text, {"missing", "2 machines", "kimi-k2-thinking"});
  EXPECT_EQ(text.find("tokens per second"), std::string::npos);
}

TEST(PlanReport, AMeasuredStackFarBelowIsCalledSoftwareBound) {
  PlanOptions options = four_machines();
  options.measured = 1.5;
  expect_words(report_text(outcome_of(options), 80), {"measured", "software-bound"});
  options.measured = outcome_of(four_machines()).plan->single.tokens_per_second;
  const std::string close = report_text(outcome_of(options), 80);
  expect_words(close, {"1.00 of the prediction"});
  EXPECT_EQ(close.find("software-bound"), std::string::npos);
}

TEST(PlanReport, KindsOfMachinesAreCounted) {
  PlanOptions options = four_machines();
  options.machines = "m3-ultra-512*2,m4-max-128,m3-ultra-512";
  const std::string text = machines_text(outcome_of(options).cluster.pool);
  EXPECT_EQ(text.find("3 x "), 0u) << text;
  EXPECT_NE(text.find(" + 1 x "), std::string::npos) << text;
}

}  // namespace
}  // namespace conclave::apps
