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

nlohmann::json shown(const HeadStatus& status) {
  return nlohmann::json::parse(pool_json(status, {}, Time{}));
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
