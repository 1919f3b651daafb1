#include "plan/catalogue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "plan/catalogue_tables.h"
#include "plan/check.h"
#include "plan/toml_reader.h"

namespace conclave::plan {
namespace {

const std::string kMachine = R"(
[[machine]]
name = "box"
title = "A box"
class = "cpu"
memory_gb = 64
usable_gb = 56
bandwidth_gb_s = 200
efficiency = 0.5
prefill_tflops = 1.5
cache_mb = 32
idle_w = 50
load_w = 200
price_usd = 2000
)";
const std::string kLink = R"(
[[link]]
name = "lan"
transport = "tcp"
latency_us = 30
jitter_us = 5
bandwidth_gb_s = 1.15
)";
const std::string kSoftware = R"(
[[software]]
name = "some"
strategies = ["slice", "pipeline"]
wire_bits = 16
hop_us = 300
[software.dispatch_us]
apple = {mla = 260, gqa = 165}
cuda = {mla = 3, gqa = 4}
rocm = {mla = 5, gqa = 6}
cpu = {mla = 7, gqa = 8}
[software.efficiency]
cpu = 0.5
[software.exchange]
tcp = {collective = "ring", overhead_us = 325, per_peer_us = 0}
rdma = {collective = "one-shot", overhead_us = 7, per_peer_us = 5}
nvlink = {collective = "one-shot", overhead_us = 3, per_peer_us = 0}
shared-memory = {collective = "one-shot", overhead_us = 1, per_peer_us = 0}
)";
const std::string kModel = R"(
[[model]]
name = "toy"
attention = "mla"
layers = 4
dense_layers = 1
hidden = 256
vocab = 1024
heads = 4
q_lora = 64
kv_lora = 64
nope_dim = 32
rope_dim = 16
v_dim = 32
experts = 16
experts_per_token = 2
shared_experts = 1
expert_width = 128
dense_width = 512
[[model.quant]]
name = "shipped"
attention = 16
router = "bf16"
shared = "bf16"
experts = "int4-g32"
head = 8.5
[[model.quant]]
name = "other"
attention = "int4-g32"
attention_small = "int8"
router = "f32"
shared = "int8-g32"
experts = "int4-g32"
dense = 5
head = "bf16"
embedding = "f32"
kv_bits = 8
)";

Result<Catalogue> parse(const std::string& text) {
  const CatalogueSource source{"f.toml", text};
  return parse_catalogue(std::span(&source, 1));
}

std::string error_of(const std::string& text) {
  const auto parsed = parse(text);
  return parsed ? "" : parsed.error().message;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  CHECK(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST(Catalogue, ReadsAMachine) {
  const Catalogue catalogue =
      *parse(kMachine +
             "dispatch_us = 20\nexpert_us = 3\nstep_us = 100\nunsteadiness = 0.05\n"
             "[machine.gemv_gb_s]\nint8 = 90\n[machine.cache_gemv_gb_s]\nint4 = 300\n");
  const Machine machine = *find_machine(catalogue, "box");
  EXPECT_EQ(machine.title, "A box");
  EXPECT_EQ(machine.device, DeviceClass::kCpu);
  EXPECT_DOUBLE_EQ(machine.memory_bytes, 64e9);
  EXPECT_DOUBLE_EQ(machine.usable_bytes, 56e9);
  EXPECT_DOUBLE_EQ(machine.peak_bandwidth, 200e9);
  EXPECT_DOUBLE_EQ(machine.efficiency, 0.5);
  EXPECT_DOUBLE_EQ(machine.prefill_flops, 1.5e12);
  EXPECT_DOUBLE_EQ(machine.cache_bytes, 32e6);
  EXPECT_DOUBLE_EQ(machine.idle_watts, 50.0);
  EXPECT_DOUBLE_EQ(machine.load_watts, 200.0);
  EXPECT_DOUBLE_EQ(machine.price_usd, 2000.0);
  EXPECT_DOUBLE_EQ(machine.dispatch_seconds, 20e-6);
  EXPECT_DOUBLE_EQ(machine.expert_seconds, 3e-6);
  EXPECT_DOUBLE_EQ(machine.step_seconds, 100e-6);
  EXPECT_DOUBLE_EQ(machine.unsteadiness, 0.05);
  EXPECT_DOUBLE_EQ(machine.gemv_bandwidth[static_cast<std::size_t>(Format::kInt8)], 90e9);
  EXPECT_DOUBLE_EQ(machine.cache_gemv_bandwidth[static_cast<std::size_t>(Format::kInt4)], 300e9);
  EXPECT_EQ(machine.gemv_bandwidth[static_cast<std::size_t>(Format::kInt4)], 0.0);
}

TEST(Catalogue, WrittenMachineReadsBack) {
  Machine machine = (*parse(kMachine)).machines[0];
  machine.title = "14\" \\ with\na line";
  machine.dispatch_seconds = 12.3e-6;
  machine.gemv_bandwidth = {1e9, 2e9, 0.0, 4e9, 5.5e9};
  const Catalogue again = *parse(to_toml(machine));
  ASSERT_EQ(again.machines.size(), 1u);
  const Machine& read = again.machines[0];
  EXPECT_EQ(read.name, machine.name);
  EXPECT_EQ(read.title, "14\" \\ with a line");
  EXPECT_EQ(read.device, machine.device);
  EXPECT_DOUBLE_EQ(read.memory_bytes, machine.memory_bytes);
  EXPECT_DOUBLE_EQ(read.usable_bytes, machine.usable_bytes);
  EXPECT_DOUBLE_EQ(read.peak_bandwidth, machine.peak_bandwidth);
  EXPECT_DOUBLE_EQ(read.cache_bytes, machine.cache_bytes);
  EXPECT_DOUBLE_EQ(read.prefill_flops, machine.prefill_flops);
  EXPECT_DOUBLE_EQ(read.dispatch_seconds, machine.dispatch_seconds);
  EXPECT_DOUBLE_EQ(read.price_usd, machine.price_usd);
  for (std::size_t f = 0; f < kFormats; ++f) {
    EXPECT_DOUBLE_EQ(read.gemv_bandwidth[f], machine.gemv_bandwidth[f]);
  }
}

TEST(Catalogue, ReadsALink) {
  const Link link = *find_link(*parse(kLink), "lan");
  EXPECT_EQ(link.title, "lan");
  EXPECT_EQ(link.transport, Transport::kTcp);
  EXPECT_DOUBLE_EQ(link.latency_seconds, 30e-6);
  EXPECT_DOUBLE_EQ(link.jitter_seconds, 5e-6);
  EXPECT_DOUBLE_EQ(link.bandwidth, 1.15e9);
}

TEST(Catalogue, ReadsSoftware) {
  const Software software = *find_software(*parse(kSoftware), "some");
  EXPECT_EQ(software.strategies, (std::array<bool, kStrategies>{true, false, false, true}));
  EXPECT_DOUBLE_EQ(software.wire_bytes_per_element, 2.0);
  EXPECT_DOUBLE_EQ(software.hop_seconds, 300e-6);
  EXPECT_DOUBLE_EQ(software.dispatch_seconds[0][0], 260e-6);  // MLA
  EXPECT_DOUBLE_EQ(software.dispatch_seconds[0][1], 165e-6);  // GQA
  EXPECT_DOUBLE_EQ(software.dispatch_seconds[3][1], 8e-6);
  EXPECT_EQ(software.efficiency, (std::array<double, kDeviceClasses>{1.0, 1.0, 1.0, 0.5}));
  EXPECT_EQ(software.exchange[0].collective, Collective::kRing);
  EXPECT_DOUBLE_EQ(software.exchange[0].overhead_seconds, 325e-6);
  EXPECT_EQ(software.exchange[1].collective, Collective::kOneShot);
  EXPECT_DOUBLE_EQ(software.exchange[1].per_peer_seconds, 5e-6);
}

TEST(Catalogue, ReadsAModelAndItsQuants) {
  const Catalogue catalogue = *parse(kModel);
  const Model shipped = *find_model(catalogue, "toy", "");
  EXPECT_EQ(shipped.architecture.n_heads, 4u);
  EXPECT_EQ(shipped.architecture.v_head_dim, 32u);
  EXPECT_EQ(shipped.quant.name, "shipped");
  EXPECT_DOUBLE_EQ(shipped.quant.of(Part::kRouted).bytes_per_parameter, 0.5625);
  EXPECT_EQ(shipped.quant.of(Part::kRouted).format, Format::kInt4);
  EXPECT_DOUBLE_EQ(shipped.quant.of(Part::kAttentionSmall).bytes_per_parameter, 2.0);
  EXPECT_DOUBLE_EQ(shipped.quant.of(Part::kDense).bytes_per_parameter, 2.0);
  EXPECT_DOUBLE_EQ(shipped.quant.of(Part::kEmbedding).bytes_per_parameter, 1.0625);
  EXPECT_DOUBLE_EQ(shipped.quant.kv_bytes_per_element, 2.0);
  const Model other = *find_model(catalogue, "toy", "other");
  EXPECT_EQ(other.quant.of(Part::kRouter).format, Format::kF32);
  EXPECT_DOUBLE_EQ(other.quant.of(Part::kAttentionSmall).bytes_per_parameter, 1.0);
  EXPECT_DOUBLE_EQ(other.quant.of(Part::kDense).bytes_per_parameter, 0.625);
  EXPECT_DOUBLE_EQ(other.quant.of(Part::kEmbedding).bytes_per_parameter, 4.0);
  EXPECT_DOUBLE_EQ(other.quant.kv_bytes_per_element, 1.0);
}

TEST(Catalogue, LaterSourcesAddAndReplace) {
  const std::vector<CatalogueSource> sources = {
      {"a", kMachine + replaced(kMachine, "box", "crate")},
      {"b", replaced(kMachine, "memory_gb = 64", "memory_gb = 96") + kLink}};
  const Catalogue catalogue = *parse_catalogue(sources);
  ASSERT_EQ(catalogue.machines.size(), 2u);
  EXPECT_DOUBLE_EQ(catalogue.machines[0].memory_bytes, 96e9);
  EXPECT_EQ(catalogue.machines[1].name, "crate");
  EXPECT_EQ(catalogue.links.size(), 1u);
}

TEST(Catalogue, OneSourceSaysANameOnce) {
  EXPECT_EQ(error_of(kLink + kLink),
            "f.toml: line 10: link[1].name: \"lan\", expected a name of its own");
  EXPECT_NE(error_of(kMachine + kMachine), "");
  EXPECT_NE(error_of(kSoftware + kSoftware), "");
  EXPECT_NE(error_of(kModel + kModel), "");
  EXPECT_NE(error_of(replaced(kModel, "\"other\"", "\"shipped\"")), "");
}

TEST(Catalogue, UnknownKeysAreErrors) {
  EXPECT_EQ(error_of("machines = 1\n"),
            "f.toml: line 1: machines: no such key, known here: machine, link, software, model");
  for (const std::string& text : {kMachine, kLink, kSoftware, kModel}) {
    EXPECT_EQ(error_of(text), "");
    const std::string wrong = error_of(replaced(text, "name =", "nmae = 1\nname ="));
    EXPECT_NE(wrong.find("nmae: no such key, known here: name, "), std::string::npos) << wrong;
  }
  EXPECT_NE(error_of(replaced(kSoftware, "apple = {mla", "apple = {mlx = 1, mla")), "");
  EXPECT_NE(error_of(replaced(kSoftware, "per_peer_us", "per_node_us")), "");
  EXPECT_NE(error_of(replaced(kSoftware, "cpu = 0.5", "cpus = 0.5")), "");
  EXPECT_NE(error_of(replaced(kModel, "kv_bits = 8", "kv_bit = 8")), "");
  EXPECT_NE(error_of(replaced(kModel, "kv_lora", "kv_heads = 1\nkv_lora")), "");
  EXPECT_NE(error_of(kMachine + "[machine.gemv_gb_s]\nint5 = 1\n"), "");
}

TEST(Catalogue, WrongValuesAreErrors) {
  const auto broken = [](const std::string& text, const std::string& from, const std::string& to) {
    return error_of(replaced(text, from, to));
  };
  EXPECT_EQ(broken(kMachine, "memory_gb = 64", "memory_gb = -64"),
            "f.toml: line 6: machine[0].memory_gb: -64, expected a number from 1e-06 to 1e+09");
  for (const char* bad : {"'64'", "nan", "inf", "0", "true", "[64]", "1e300", "2024-01-01"}) {
    EXPECT_NE(broken(kMachine, "memory_gb = 64", std::string("memory_gb = ") + bad), "") << bad;
  }
  EXPECT_EQ(broken(kMachine, "usable_gb = 56", "usable_gb = 65"),
            "f.toml: line 7: machine[0].usable_gb: 65, expected at most memory_gb, 64");
  EXPECT_EQ(broken(kMachine, "\"cpu\"", "\"npu\""),
            "f.toml: line 5: machine[0].class: \"npu\", expected apple, cuda, rocm or cpu");
  EXPECT_NE(broken(kMachine, "efficiency = 0.5", "efficiency = 1.5"), "");
  EXPECT_NE(broken(kMachine, "memory_gb = 64\n", ""), "");
  EXPECT_NE(broken(kMachine, "name = \"box\"\n", ""), "");
  EXPECT_NE(broken(kLink, "\"tcp\"", "\"udp\""), "");
  EXPECT_NE(broken(kLink, "bandwidth_gb_s = 1.15", "bandwidth_gb_s = 0"), "");
  EXPECT_NE(broken(kSoftware, "\"ring\"", "\"tree\""), "");
  EXPECT_NE(broken(kSoftware, "\"pipeline\"", "\"pipe\""), "");
  EXPECT_NE(broken(kSoftware, "[\"slice\", \"pipeline\"]", "[]"), "");
  EXPECT_NE(broken(kSoftware, "rocm = {mla = 5, gqa = 6}\n", ""), "");
  EXPECT_NE(broken(kModel, "\"mla\"", "\"mha\""), "");
  EXPECT_NE(broken(kModel, "experts = 16", "experts = 0"), "");
  EXPECT_NE(broken(kModel, "experts_per_token = 2", "experts_per_token = 17"), "");
  EXPECT_NE(broken(kModel, "layers = 4", "layers = -4"), "");
  EXPECT_NE(broken(kModel, "layers = 4", "layers = 4000000000000"), "");
  EXPECT_NE(broken(kModel, "\"int4-g32\"", "\"int3\""), "");
  EXPECT_NE(broken(kModel, "shared = \"bf16\"\n", ""), "");
  EXPECT_NE(error_of("machine = 3\n"), "");
  EXPECT_NE(error_of("machine = [3]\n"), "");
}

TEST(Catalogue, SourcesSayHowAValueIsKnown) {
  EXPECT_EQ(error_of(kMachine + "[machine.source]\nmemory_gb = 'measured: by hand'\n"), "");
  EXPECT_NE(error_of(kMachine + "[machine.source]\nmemory_gb = 'guessed'\n"), "");
  EXPECT_NE(error_of(kMachine + "[machine.source]\nmemory = 'measured: by hand'\n"), "");
  EXPECT_NE(error_of(kMachine + "[machine.source]\nmemory_gb = 3\n"), "");
  EXPECT_NE(error_of(kMachine + "[machine.source.gemv_gb_s]\nint4 = 'x'\n"), "");
}

TEST(Catalogue, UnknownNamesListTheClosest) {
  const Catalogue catalogue = *parse(kMachine + kModel);
  EXPECT_EQ(find_machine(catalogue, "bix").error().message, "no machine \"bix\"; known are box");
  EXPECT_EQ(find_link(catalogue, "x").error().message, "no link \"x\"; there are none");
  EXPECT_EQ(find_model(catalogue, "toy", "shiped").error().message,
            "model \"toy\" has no quant \"shiped\"; known are shipped, other");
  const std::vector<std::string_view> names = {"a1", "b1", "c1", "d1", "e1", "f1", "tb5-rdma"};
  EXPECT_EQ(closest_names("tb5_rdma", names), "; the closest is tb5-rdma");
  EXPECT_EQ(closest_names("zz", names), "; none of the 7 names is like it");
  const std::vector<std::string_view> kin = {"box-1", "box-2", "box-3", "box-4", "cat"};
  EXPECT_EQ(closest_names("box-44", kin), "; the closest are box-4, box-1, box-2");
}

// Every number that ships says where it is from: a number itself, or the table that holds it.
void expect_sources(const TomlTable& entry) {
  const auto source = *entry.table_if_any("source");
  ASSERT_TRUE(source) << entry.path();
  for (const std::string& key : entry.node().keys) {
    const TomlNode& node = *entry.find(key);
    const bool number = node.kind == TomlNode::Kind::kInteger || node.kind == TomlNode::Kind::kReal;
    const bool numbers = key != "source" && node.kind != TomlNode::Kind::kText &&
                         (node.kind == TomlNode::Kind::kTable ||
                          (node.kind == TomlNode::Kind::kArray && key == "quant"));
    if (!number && !numbers) continue;
    if (number && source->has("shape")) continue;
    EXPECT_TRUE(source->has(key)) << entry.path() << "." << key;
  }
}

TEST(BuiltInCatalogue, ParsesAndNamesItsSources) {
  const auto catalogue = parse_catalogue(built_in_sources());
  ASSERT_TRUE(catalogue) << catalogue.error().message;
  EXPECT_GE(catalogue->machines.size(), 15u);
  EXPECT_GE(catalogue->links.size(), 12u);
  EXPECT_GE(catalogue->models.size(), 12u);
  EXPECT_GE(catalogue->software.size(), 3u);
  for (const CatalogueSource& source : built_in_sources()) {
    const TomlNode root = *parse_toml(source.text, source.label);
    const TomlTable file(source.label, "", root);
    for (const char* kind : {"machine", "link", "software", "model"}) {
      const std::vector<TomlTable> entries = *file.tables(kind);
      for (const TomlTable& entry : entries) expect_sources(entry);
    }
  }
}

TEST(BuiltInCatalogue, HasNoValueThatTheChecksRefuse) {
  const Catalogue catalogue = *parse_catalogue(built_in_sources());
  for (const Machine& machine : catalogue.machines) EXPECT_TRUE(check(machine)) << machine.name;
  for (const Link& link : catalogue.links) EXPECT_TRUE(check(link)) << link.name;
  for (const Software& software : catalogue.software) EXPECT_TRUE(check(software));
  for (const CatalogueModel& model : catalogue.models) {
    EXPECT_TRUE(check(model.architecture)) << model.architecture.name;
    for (const Quant& quant : model.quants) EXPECT_TRUE(check(quant)) << quant.name;
  }
}

}  // namespace
}  // namespace conclave::plan
