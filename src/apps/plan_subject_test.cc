#include "apps/plan_subject.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace conclave::apps {
namespace {

class PlanSubject : public testing::Test {
 protected:
  void SetUp() override {
    auto catalogue = load_catalogue("");
    ASSERT_TRUE(catalogue) << catalogue.error().message;
    catalogue_ = std::move(*catalogue);
    options_.machines = "m3-ultra-512*2,m4-max-128";
    options_.link = "tb5-rdma";
  }

  Subject subject() {
    auto made = make_subject(options_, catalogue_, "");
    CHECK(made);
    return std::move(*made);
  }
  Subject after(std::string_view change) {
    const auto parsed = parse_change(change);
    CHECK(parsed);
    auto result = changed(subject(), catalogue_, *parsed);
    CHECK(result);
    return std::move(*result);
  }

  plan::Catalogue catalogue_;
  PlanOptions options_;
};

TEST_F(PlanSubject, MachinesAreNumberedWhereANameRepeats) {
  const plan::Pool pool = subject().cluster.pool;
  ASSERT_EQ(pool.machines.size(), 3u);
  EXPECT_EQ(pool.machines[0].name, "m3-ultra-512-1");
  EXPECT_EQ(pool.machines[1].name, "m3-ultra-512-2");
  EXPECT_EQ(pool.machines[2].name, "m4-max-128");
  EXPECT_EQ(pool.topology, plan::Topology::kMesh);
}

TEST_F(PlanSubject, WhatIsNotGivenIsAssumedAloud) {
  options_.link.clear();
  const Subject all = subject();
  ASSERT_EQ(all.notes.size(), 5u);
  EXPECT_EQ(all.notes[0], "--model kimi-k2-thinking");
  EXPECT_EQ(all.notes[1], "--link 10gbe");
  EXPECT_TRUE(all.notes[2].starts_with("--quant shipped (others: ")) << all.notes[2];
  EXPECT_EQ(all.notes[3], "--topology switch");
  EXPECT_EQ(all.notes[4], "--software conclave");
  EXPECT_EQ(all.cluster.software.name, kDefaultSoftware);
  EXPECT_EQ(all.cluster.pool.link->name, kDefaultLink);
  EXPECT_EQ(after("software=vllm-2026").notes.size(), 4u);
  options_.link = "tb5-rdma";
  options_.model = "kimi-k2";
  options_.quant = "fp8";
  options_.software = "conclave";
  EXPECT_EQ(subject().notes, std::vector<std::string>{"--topology mesh"});
  options_.topology = "ring";
  EXPECT_TRUE(subject().notes.empty());
}

TEST_F(PlanSubject, AFileMustSayItsModelAndMayDefineIt) {
  const auto file = std::filesystem::temp_directory_path() / "plan_subject_test.toml";
  const auto made = [&](const std::string& text) {
    std::ofstream(file) << text;
    return make_subject(options_, catalogue_, file.string());
  };
  options_ = {};
  const std::string machine = "[[machine]]\nuse = 'm3-ultra-512'\n";
  const auto missing = made(machine);
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("model: missing"), std::string::npos);
  const std::string own =
      "[[model]]\nname = 'toy'\nattention = 'gqa'\nlayers = 4\nhidden = 256\nvocab = 1024\n"
      "heads = 4\nkv_heads = 2\nhead_dim = 64\nexperts = 16\nexperts_per_token = 2\n"
      "expert_width = 128\n[[model.quant]]\nname = 'a'\nattention = 16\nrouter = 16\n"
      "experts = 4.5\nhead = 16\n[[model.quant]]\nname = 'b'\nattention = 8\nrouter = 16\n"
      "experts = 4.5\nhead = 16\n";
  const auto defined = made(machine + own);
  ASSERT_TRUE(defined) << defined.error().message;
  EXPECT_EQ(defined->cluster.model.architecture.name, "toy");
  EXPECT_EQ(defined->notes,
            (std::vector<std::string>{"--quant a (others: b)", "--software conclave"}));
  const auto other = changed(*defined, catalogue_, *parse_change("quant=b"));
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ(other->cluster.model.quant.name, "b");
  options_.quant = "b";
  EXPECT_EQ(made(machine + own)->cluster.model.quant.name, "b");
  options_.quant = "c";
  EXPECT_FALSE(made(machine + own));
  options_.quant.clear();
  const auto unknown = made("model = 'gpt-9'\n" + machine);
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find(": line 1: model: no model"), std::string::npos)
      << unknown.error().message;
  std::filesystem::remove(file);
}

TEST_F(PlanSubject, FlagsReachTheWorkload) {
  options_.batch = 16;
  options_.context = 4096;
  options_.prompt = 777;
  options_.zipf = 0.5;
  options_.speculation = "3:2.5";
  options_.strategy = "slice";
  const plan::Cluster cluster = subject().cluster;
  EXPECT_EQ(cluster.workload.batch, 16u);
  EXPECT_EQ(cluster.workload.prompt, 777u);
  EXPECT_GE(cluster.workload.reserve_tokens, 16u * 4096u);
  EXPECT_EQ(cluster.workload.speculation.draft_tokens, 3u);
  EXPECT_EQ(cluster.policy.strategy, plan::Strategy::kSlice);
}

TEST_F(PlanSubject, AModelMayBeAFolder) {
  options_.model = "models/ember";
  EXPECT_EQ(subject().folder, "models/ember");
  EXPECT_EQ(subject().cluster.model.architecture.name, "ember");
  options_.quant = "int8";
  EXPECT_FALSE(make_subject(options_, catalogue_, ""));
  options_.quant.clear();
  const double native = plan::stored_bytes(subject().cluster.model);
  EXPECT_GT(native, 0.0);
  EXPECT_LE(plan::stored_bytes(after("quant=int8").cluster.model), native * 1.01);
}

TEST_F(PlanSubject, UnknownNamesAreErrors) {
  for (std::string PlanOptions::*flag :
       {&PlanOptions::machines, &PlanOptions::link, &PlanOptions::model, &PlanOptions::software,
        &PlanOptions::topology, &PlanOptions::strategy}) {
    PlanOptions options = options_;
    options.*flag = "nonesuch";
    EXPECT_FALSE(make_subject(options, catalogue_, ""));
  }
  EXPECT_FALSE(load_catalogue("no/such/folder"));
  EXPECT_FALSE(make_subject(options_, catalogue_, "no-such-file.toml"));
}

TEST_F(PlanSubject, ChangesChangeOneThing) {
  const plan::Cluster before = subject().cluster;
  EXPECT_EQ(after("link=10gbe").cluster.pool.link->name, "10gbe");
  EXPECT_EQ(after("strategy=pipeline").cluster.policy.strategy, plan::Strategy::kPipeline);
  EXPECT_EQ(after("nodes=2").cluster.pool.machines.size(), 2u);
  EXPECT_DOUBLE_EQ(after("bandwidth=+20%").cluster.pool.machines[0].peak_bandwidth,
                   1.2 * before.pool.machines[0].peak_bandwidth);
  EXPECT_DOUBLE_EQ(after("latency=50us").cluster.pool.link->latency_seconds, 50e-6);
  EXPECT_DOUBLE_EQ(after("link-bandwidth=-50%").cluster.pool.link->bandwidth,
                   0.5 * before.pool.link->bandwidth);
  const auto unknown = parse_change("link=string-and-cans");
  ASSERT_TRUE(unknown);
  const auto refused = changed(subject(), catalogue_, *unknown);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("--what-if link=string-and-cans"), std::string::npos);
}

TEST_F(PlanSubject, MoreMachinesAreOfTheLastKindWithNamesOfTheirOwn) {
  plan::Cluster cluster = subject().cluster;
  ASSERT_TRUE(set_nodes(cluster, 6));
  ASSERT_EQ(cluster.pool.machines.size(), 6u);
  EXPECT_EQ(cluster.pool.machines[5].title, cluster.pool.machines[2].title);
  std::set<std::string> names;
  for (const plan::Machine& machine : cluster.pool.machines) names.insert(machine.name);
  EXPECT_EQ(names.size(), 6u);
  EXPECT_TRUE(plan::check(cluster));
}

TEST_F(PlanSubject, NoLinkIsInvented) {
  plan::Cluster cluster = subject().cluster;
  const plan::Link link = *cluster.pool.link;
  cluster.pool.link.reset();
  cluster.pool.pairs = {{0, 1, link}, {1, 2, link}};
  EXPECT_FALSE(set_nodes(cluster, 4));
  ASSERT_TRUE(set_nodes(cluster, 2));
  EXPECT_EQ(cluster.pool.pairs.size(), 1u);
  EXPECT_TRUE(set_nodes(cluster, 1));
}

TEST_F(PlanSubject, SweepsRaiseTheReserve) {
  const auto large = swept(subject(), SweepKey::kBatch, 1024);
  ASSERT_TRUE(large) << large.error().message;
  EXPECT_EQ(large->cluster.workload.batch, 1024u);
  EXPECT_GE(large->cluster.workload.reserve_tokens, 1024 * large->cluster.workload.context);
}

}  // namespace
}  // namespace conclave::apps
