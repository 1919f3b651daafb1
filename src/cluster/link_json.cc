#include "cluster/link_json.h"

#include <nlohmann/json.hpp>

namespace conclave::cluster {
namespace {

using Json = nlohmann::ordered_json;

Json link_json(const LinkMeasurement& link) {
  Json json;
  if (!link.error.empty()) json["error"] = link.error;
  if (link.rtt_seconds > 0.0) {
    json["rtt_us"] = link.rtt_seconds * 1e6;
    json["rtt_slow_us"] = link.rtt_slow_seconds * 1e6;
    json["clock_ahead_seconds"] = link.clock_ahead_seconds;
  }
  if (link.bandwidth > 0.0) json["bandwidth_gb_s"] = link.bandwidth / 1e9;
  if (link.path_mtu > 0) json["path_mtu"] = link.path_mtu;
  if (!link.interface.empty()) json["interface"] = link.interface;
  if (link.interface_mtu > 0) json["interface_mtu"] = link.interface_mtu;
  if (link.interface_mbit > 0) json["interface_mbit"] = link.interface_mbit;
  if (link.wireless) json["wireless"] = true;
  return json;
}

}  // namespace

Json links_json(const LinkTable& links, const std::map<NodeId, std::string>& names, Time now) {
  Json all = Json::array();
  for (const auto& [pair, link] : links.all()) {
    const auto from = names.find(pair.first);
    const auto to = names.find(pair.second);
    if (from == names.end() || to == names.end()) continue;
    Json json{{"from", from->second}, {"to", to->second}};
    json.update(link_json(link.found));
    json["seconds_ago"] = seconds(now - link.at);
    all.push_back(std::move(json));
  }
  return all;
}

}  // namespace conclave::cluster
