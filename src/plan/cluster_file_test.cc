#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/mapped_file.h"
#include "plan/catalogue.h"

namespace conclave::plan {
namespace {

const Catalogue& catalogue() {
  static const Catalogue built_in = *parse_catalogue(built_in_sources());
  return built_in;
}

Result<Cluster> parse(const std::string& text) {
  return parse_cluster(text, "f.toml", catalogue());
}

std::string error_of(const std::string& text) {
  const auto parsed = parse(text);
  return parsed ? "" : parsed.error().message;
}

const std::string kSmallest = "model = 'kimi-k2'\n[[machine]]\nuse = 'm3-ultra-512'\n";
const std::string kFour = R"(
model = "kimi-k2"
link = "tb5-rdma"
[[machine]]
use = "m3-ultra-512"
count = 4
)";

TEST(ClusterFile, TheSmallest) {
  const Cluster cluster = *parse(kSmallest);
  EXPECT_EQ(cluster.name, "f.toml");
  EXPECT_EQ(cluster.software.name, "conclave");
  EXPECT_EQ(cluster.pool.machines.size(), 1u);
  EXPECT_FALSE(cluster.pool.link);
  EXPECT_FALSE(cluster.policy.strategy);
  EXPECT_EQ(cluster.workload.batch, 1u);
}

// Long because: one file that says every key, and one expectation for each.
TEST(ClusterFile, EveryKey) {
  const Cluster cluster = *parse(R"(
name = "mine"
model = "kimi-k2"
quant = "fp8"
software = "mlx-exo-2026"
link = "tb5-rdma"
topology = "mesh"
strategy = "pipeline"
use_all = true
allow_uneven = true
expert_copies = 2
replicate_attention = true
cover_losses = 0
lifetime_years = 4
utilisation = 0.5
usd_per_kwh = 0.3
[[machine]]
use = "m3-ultra-512"
name = "studio"
count = 2
bandwidth_gb_s = 700
[[machine]]
name = "box"
class = "cpu"
memory_gb = 768
usable_gb = 700
bandwidth_gb_s = 400
prefill_tflops = 2
[[pair]]
machines = ["studio-2", "box"]
link = {transport = "tcp", latency_us = 30, bandwidth_gb_s = 1.1}
[workload]
batch = 4
context = 4096
prompt = 1000
reserve = 20000
zipf = 0.8
[workload.speculation]
draft_tokens = 3
accepted = 2.5
overlap = 0.3
draft_ms = 1.5
[measured]
tokens_per_second = 12.5
)");
  EXPECT_EQ(cluster.name, "mine");
  EXPECT_EQ(cluster.model.quant.name, "fp8");
  EXPECT_EQ(cluster.software.name, "mlx-exo-2026");
  EXPECT_EQ(cluster.pool.topology, Topology::kMesh);
  EXPECT_EQ(cluster.policy.strategy, Strategy::kPipeline);
  EXPECT_TRUE(cluster.policy.use_all_machines);
  EXPECT_TRUE(cluster.policy.allow_uneven);
  EXPECT_TRUE(cluster.policy.replicate_attention.value_or(false));
  EXPECT_EQ(cluster.policy.expert_copies, 2u);
  EXPECT_EQ(cluster.policy.cover_losses, 0u);
  EXPECT_EQ(cluster.policy.usd_per_kwh, 0.3);
  ASSERT_EQ(cluster.pool.machines.size(), 3u);
  EXPECT_EQ(cluster.pool.machines[1].name, "studio-2");
  EXPECT_DOUBLE_EQ(cluster.pool.machines[1].peak_bandwidth, 700e9);
  EXPECT_DOUBLE_EQ(cluster.pool.machines[1].memory_bytes, 512e9);
  EXPECT_EQ(cluster.pool.machines[2].device, DeviceClass::kCpu);
  EXPECT_EQ(cluster.pool.link->name, "tb5-rdma");
  ASSERT_EQ(cluster.pool.pairs.size(), 1u);
  EXPECT_EQ(cluster.pool.pairs[0].a, 1u);
  EXPECT_EQ(cluster.pool.pairs[0].b, 2u);
  EXPECT_DOUBLE_EQ(cluster.pool.pairs[0].link.bandwidth, 1.1e9);
  EXPECT_EQ(cluster.workload.reserve_tokens, 20000u);
  EXPECT_EQ(cluster.workload.speculation.draft_tokens, 3u);
  EXPECT_DOUBLE_EQ(cluster.workload.speculation.draft_seconds, 1.5e-3);
  EXPECT_EQ(cluster.measured_tokens_per_second, 12.5);
}

TEST(ClusterFile, CountNumbersTheNames) {
  const Cluster cluster = *parse(kFour);
  ASSERT_EQ(cluster.pool.machines.size(), 4u);
  EXPECT_EQ(cluster.pool.machines[0].name, "m3-ultra-512-1");
  EXPECT_EQ(cluster.pool.machines[3].name, "m3-ultra-512-4");
}

TEST(ClusterFile, TheReserveHoldsTheWorkload) {
  const Cluster cluster = *parse(kFour + "[workload]\nbatch = 32\ncontext = 1024\n");
  EXPECT_EQ(cluster.workload.reserve_tokens, 32u * 1024u);
  EXPECT_NE(error_of(kFour + "[workload]\nbatch = 32\ncontext = 1024\nreserve = 1000\n"), "");
}

TEST(ClusterFile, OwnDefinitions) {
  const std::string own_links = R"(
model = "kimi-k2"
[[link]]
name = "fast"
transport = "rdma"
latency_us = 5
bandwidth_gb_s = 10
[[link]]
name = "slow"
transport = "tcp"
latency_us = 50
bandwidth_gb_s = 1
[[machine]]
use = "m3-ultra-512"
count = 3
[[pair]]
machines = ["m3-ultra-512-1", "m3-ultra-512-3"]
link = "slow"
)";
  const Cluster cluster = *parse(own_links);
  EXPECT_EQ(cluster.pool.link->name, "fast");
  EXPECT_EQ(cluster.pool.pairs[0].link.name, "slow");
  const Cluster own_model = *parse(R"(
quant = "b"
[[machine]]
use = "m3-ultra-512"
[model]
name = "toy"
attention = "gqa"
layers = 4
hidden = 256
vocab = 1024
heads = 4
kv_heads = 2
head_dim = 64
experts = 16
experts_per_token = 2
expert_width = 128
[[model.quant]]
name = "a"
attention = 16
router = 16
experts = 4.5
head = 16
[[model.quant]]
name = "b"
attention = 8
router = 16
experts = 4.5
head = 16
)");
  EXPECT_EQ(own_model.model.architecture.name, "toy");
  EXPECT_EQ(own_model.model.quant.name, "b");
}

TEST(ClusterFile, TheFirstSoftwareOfItsOwnIsUsed) {
  const auto software = [](const std::string& name) {
    std::string text = "[[software]]\nname = '" + name + "'\nstrategies = ['slice', 'pipeline']\n";
    for (const char* device : {"apple", "cuda", "rocm", "cpu"}) {
      text += std::string("[software.dispatch_us.") + device + "]\nmla = 10\ngqa = 10\n";
    }
    for (const char* transport : {"tcp", "rdma", "nvlink", "shared-memory"}) {
      text += std::string("[software.exchange.") + transport +
              "]\ncollective = 'one-shot'\noverhead_us = 5\n";
    }
    return text;
  };
  const auto cluster = parse(kSmallest + software("ours") + software("theirs"));
  ASSERT_TRUE(cluster) << cluster.error().message;
  EXPECT_EQ(cluster->software.name, "ours");
}

TEST(ClusterFile, AModelOfTheCallersReplacesTheFiles) {
  Model model = *find_model(catalogue(), "kimi-k2", "");
  model.architecture.name = "folder";
  const std::string text = "model = './folder'\n[[machine]]\nuse = 'm3-ultra-512'\n";
  EXPECT_EQ((*parse_cluster(text, "f.toml", catalogue(), model)).model.architecture.name, "folder");
  EXPECT_FALSE(parse_cluster(text, "f.toml", catalogue()));
  EXPECT_EQ(stated_in(text, "f.toml")->model, "./folder");
  EXPECT_FALSE(stated_in("model = ''\n", "f.toml"));
  EXPECT_FALSE(stated_in("model = \n", "f.toml"));
  EXPECT_FALSE(stated_in("[[model]]\nname = 'half'\n", "f.toml"));
}

TEST(ClusterFile, TellsWhatItStates) {
  const Stated nothing = *stated_in("name = 'x'\n", "f.toml");
  EXPECT_EQ(nothing.model, "");
  EXPECT_TRUE(nothing.own_models.empty());
  EXPECT_FALSE(nothing.quant || nothing.software || nothing.topology);
  const Stated all = *stated_in(
      "model = 'kimi-k2'\nquant = 'fp8'\nsoftware = 'conclave'\ntopology = 'ring'\n", "f.toml");
  EXPECT_EQ(all.model, "kimi-k2");
  EXPECT_TRUE(all.quant && all.software && all.topology);
}

TEST(ClusterFile, AModelMustBeSaid) {
  EXPECT_EQ(error_of("[[machine]]\nuse = 'm3-ultra-512'\n"),
            "f.toml: line 1: model: missing, expected a name of the catalogue, a folder, or a "
            "[[model]]");
}

TEST(ClusterFile, UnknownNames) {
  const std::string machine = error_of("model = 'kimi-k2'\n[[machine]]\nuse = 'm3-ultra-521'\n");
  EXPECT_TRUE(
      machine.starts_with("f.toml: line 2: machine[0]: use: no machine \"m3-ultra-521\"; "
                          "the closest are m3-ultra-512, "))
      << machine;
  EXPECT_NE(error_of("model = 'kimi'\n[[machine]]\nuse = 'm3-ultra-512'\n").find("kimi-k2"),
            std::string::npos);
  EXPECT_NE(error_of("quant = 'none'\n" + kSmallest).find("has no quant \"none\""),
            std::string::npos);
  EXPECT_NE(error_of("software = 'none'\n" + kSmallest), "");
  EXPECT_NE(error_of("link = 'none'\n" + kSmallest), "");
  EXPECT_NE(error_of(kFour + "[[pair]]\nmachines = ['m3-ultra-512-1', 'x']\nlink = '10gbe'\n")
                .find("no machine \"x\" in this file"),
            std::string::npos);
}

TEST(ClusterFile, WhatIsWrong) {
  for (const char* line : {"colour = 1",
                           "strategy = 'fast'",
                           "topology = 'star'",
                           "use_all = 1",
                           "allow_uneven = 'yes'",
                           "expert_copies = 0",
                           "cover_losses = 2",
                           "lifetime_years = 0",
                           "utilisation = 2",
                           "usd_per_kwh = -1",
                           "workload = 1",
                           "measured = {}",
                           "measured = {tokens_per_second = 0}",
                           "name = ''",
                           "workload = {batch = 0}",
                           "workload = {batch = 1.5}",
                           "workload = {prompt = 0}",
                           "workload = {contxt = 1}",
                           "workload = {zipf = -1}",
                           "quant = 3",
                           "workload = {batch = 1000000, context = 1000000000}",
                           "workload = {speculation = {draft_tokens = 1, accepted = 3}}",
                           "workload = {speculation = {accepted = 1}}",
                           "pair = [{machines = ['a']}]"}) {
    EXPECT_NE(error_of(std::string(line) + "\n" + kSmallest), "") << line;
  }
  EXPECT_NE(error_of(""), "");
  EXPECT_NE(error_of("model = 'kimi-k2'\n"), "");
  EXPECT_NE(error_of("model = 'kimi-k2'\n[[machine]]\nclass = 'cpu'\n"), "");
  EXPECT_NE(error_of(kFour + "[[machine]]\nuse = 'm3-ultra-512'\ncount = 0\n"), "");
  EXPECT_NE(error_of(kFour + "[[machine]]\nuse = 'm3-ultra-512'\ncount = 100000\n"), "");
  EXPECT_NE(error_of(kFour + "[[machine]]\nuse = 'm3-ultra-512'\nmemory_gb = 100\n"), "");
}

TEST(ClusterFile, MachinesNeedLinksAndNames) {
  const std::string two = kSmallest + "[[machine]]\nuse = 'm3-ultra-512'\n";
  EXPECT_NE(error_of("link = '10gbe'\n" + two).find("two machines have the name"),
            std::string::npos);
  EXPECT_NE(error_of(two + "name = 'b'\n").find("no chain of links joins"), std::string::npos);
  EXPECT_EQ(error_of(two + "name = 'b'\n[[pair]]\nmachines = ['b', 'm3-ultra-512']\n" +
                     "link = '10gbe'\n"),
            "");
}

TEST(ClusterFile, ThoseOfTheRepository) {
  std::size_t n_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("data/clusters")) {
    const auto text = read_text_file(entry.path(), kCatalogueBytesMax);
    ASSERT_TRUE(text) << text.error().message;
    const auto cluster = parse_cluster(*text, entry.path().string(), catalogue());
    EXPECT_TRUE(cluster) << cluster.error().message;
    ++n_files;
  }
  EXPECT_GT(n_files, 0u);
}

}  // namespace
}  // namespace conclave::plan
