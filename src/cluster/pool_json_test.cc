#include "cluster/pool_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::cluster {
namespace {

NodeStatus machine(std::uint64_t id, const char* name, bool files) {
  NodeStatus node;
  node.node = NodeId{id};
  node.name = name;
  node.alive = true;
  node.state = "ready";
  node.has_files = files;
  return node;
}

nlohmann::json shown(const HeadStatus& status, const LinkTable& links = {}) {
  return nlohmann::json::parse(pool_json(status, {}, links, Time{}));
}

TEST(PoolJson, SaysWhoHasTheFilesAndWarnsOfTheLastOne) {
  Layout layout;
  layout.id = 1;
  HeadStatus status;
  status.layout = &layout;
  status.nodes = {machine(0, "head", true)};
  EXPECT_FALSE(shown(status).contains("warning"));  // alone
  status.nodes.push_back(machine(1, "node-a", false));
  EXPECT_EQ(shown(status)["nodes"][0]["files"], true);
  EXPECT_EQ(shown(status)["nodes"][1]["files"], false);
  EXPECT_NE(shown(status)["warning"].get<std::string>().find("only head"), std::string::npos);
  status.nodes.push_back(machine(2, "node-b", true));
  EXPECT_FALSE(shown(status).contains("warning"));
  status.nodes[2].alive = false;
  EXPECT_TRUE(shown(status).contains("warning"));
  status.layout = nullptr;  // of which model?
  EXPECT_FALSE(shown(status).contains("warning"));
}

TEST(PoolJson, ShowsTheLinksOfMachinesThatItNames) {
  HeadStatus status;
  status.nodes = {machine(0, "head", true), machine(1, "node-a", false)};
  LinkTable links;
  links.set(Time{}, kHeadNode, NodeId{1}, {.rtt_seconds = 2e-4, .bandwidth = 1.5e9});
  links.set(Time{}, NodeId{1}, kHeadNode, {.error = "does not answer"});
  links.set(Time{}, NodeId{2}, kHeadNode, {.error = "of a machine that left"});
  const nlohmann::json shown_links = shown(status, links)["links"];
  ASSERT_EQ(shown_links.size(), 2u);
  EXPECT_EQ(shown_links[0]["from"], "head");
  EXPECT_EQ(shown_links[0]["to"], "node-a");
  EXPECT_DOUBLE_EQ(shown_links[0]["rtt_us"], 200.0);
  EXPECT_DOUBLE_EQ(shown_links[0]["bandwidth_gb_s"], 1.5);
  EXPECT_FALSE(shown_links[0].contains("error"));
  EXPECT_EQ(shown_links[1]["error"], "does not answer");
  EXPECT_FALSE(shown_links[1].contains("rtt_us"));
}

TEST(PoolJson, ShowsHowFarLoadingIs) {
  HeadStatus status;
  status.nodes = {machine(0, "head", true)};
  status.nodes[0].loaded_bytes = status.loaded_bytes = 30;
  status.nodes[0].total_bytes = status.total_bytes = 40;
  EXPECT_EQ(shown(status)["loaded_bytes"], 30);
  EXPECT_EQ(shown(status)["nodes"][0]["loading_bytes"], 40);
}

}  // namespace
}  // namespace conclave::cluster
