#include "cluster/pool_json.h"

#include <nlohmann/json.hpp>

#include "cluster/link_json.h"

namespace conclave::cluster {
namespace {

using Json = nlohmann::ordered_json;

std::string_view phase_name(HeadPhase phase) {
  switch (phase) {
    case HeadPhase::kGathering:
      return "gathering";
    case HeadPhase::kLoading:
      return "loading";
    case HeadPhase::kForming:
      return "forming";
    case HeadPhase::kRunning:
      return "running";
    case HeadPhase::kShort:
      return "short";
  }
  return "unknown";
}

// Shares of the columns and heads that a node computes, in percent of the whole model.
double share_of(const HeadStatus& status, const NodeStatus& node) {
  double own = 0.0;
  double all = 0.0;
  if (status.layout == nullptr) return 0.0;
  for (std::size_t v = 0; v < status.layout->virtual_ranks.size(); ++v) {
    const double bytes = static_cast<double>(status.layout->virtual_ranks[v].weight_bytes);
    all += bytes;
    if (node.computes.contains(v)) own += bytes;
  }
  return all > 0.0 ? 100.0 * own / all : 0.0;
}

Json node_json(const HeadStatus& status, const NodeStatus& node) {
  Json json;
  json["name"] = node.name;
  json["head"] = node.node == kHeadNode;
  json["alive"] = node.alive;
  json["state"] = node.state;
  json["share_percent"] = share_of(status, node);
  json["virtual_ranks_held"] = node.holds.size();
  json["virtual_ranks_computed"] = node.computes.size();
  json["weight_bytes"] = node.weight_bytes;
  json["usable_bytes"] = static_cast<std::uint64_t>(node.machine.usable_bytes);
  json["files"] = node.has_files;
  json["loaded_bytes"] = node.loaded_bytes;
  json["loading_bytes"] = node.total_bytes;
  json["bandwidth_gb_s"] = node.machine.peak_bandwidth / 1e9;
  return json;
}

// A second copy of the files costs a copy; a lost one may cost a download of days.
std::string files_warning(const HeadStatus& status) {
  if (status.layout == nullptr || status.nodes.size() < 2) return {};
  const NodeStatus* only = nullptr;
  for (const NodeStatus& node : status.nodes) {
    if (!node.alive || !node.has_files) continue;
    if (only != nullptr) return {};
    only = &node;
  }
  if (only == nullptr) return "no machine of the pool has the model's files";
  return "only " + only->name +
         " has the model's files: while it is away, nobody else can load weights";
}

}  // namespace

std::string pool_json(const HeadStatus& status, const std::deque<HistoryEntry>& history,
                      const LinkTable& links, Time now) {
  Json json;
  json["phase"] = phase_name(status.phase);
  json["text"] = status.text;
  json["epoch"] = status.epoch;
  json["fresh_epochs"] = status.fresh_epochs;
  json["losses_survived"] = status.losses_survived;
  json["rebuilding"] = status.rebuilding;
  json["open_requests"] = status.open_requests;
  json["loaded_bytes"] = status.loaded_bytes;
  json["loading_bytes"] = status.total_bytes;
  if (const std::string warning = files_warning(status); !warning.empty()) {
    json["warning"] = warning;
  }
  if (status.layout != nullptr) {
    json["strategy"] = plan::name_of(status.layout->strategy);
    json["layout"] = status.layout->id;
    json["virtual_ranks"] = status.layout->virtual_ranks.size();
    json["expert_replicas"] = n_replicas(*status.layout);
    json["kv_bytes"] = status.layout->kv_bytes;
    json["predicted_step_seconds"] = status.layout->step_seconds;
  }
  json["nodes"] = Json::array();
  std::map<NodeId, std::string> names;
  for (const NodeStatus& node : status.nodes) {
    json["nodes"].push_back(node_json(status, node));
    names[node.node] = node.name;
  }
  json["links"] = links_json(links, names, now);
  json["history"] = Json::array();
  for (const HistoryEntry& entry : history) {
    json["history"].push_back({{"seconds_ago", seconds(now - entry.at)}, {"text", entry.text}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace conclave::cluster
