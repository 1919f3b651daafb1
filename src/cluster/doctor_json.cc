#include <map>
#include <nlohmann/json.hpp>

#include "cluster/doctor.h"
#include "cluster/link_json.h"

namespace conclave::cluster {
namespace {

using Json = nlohmann::ordered_json;

Json machine_json(const CheckedMachine& machine) {
  Json json;
  json["name"] = machine.name;
  json["address"] = machine.address;
  json["build"] = machine.build;
  json["state"] = machine.absent.empty() ? "there" : machine.absent;
  if (!machine.checks) return json;
  const MachineChecks& checks = *machine.checks;
  json["host_name"] = checks.host_name;
  json["clock_synchronised"] = checks.clock_synchronised;
  json["descriptors_max"] = checks.descriptors_max;
  json["memory_bytes"] = checks.memory_bytes;
  json["available_bytes"] = checks.available_bytes;
  json["shared_memory"] = checks.shared_memory;
  json["dns_sd"] = checks.discovery;
  return json;
}

}  // namespace

std::string doctor_json(std::span<const CheckedMachine> machines, const LinkTable& links,
                        std::span<const Finding> findings, Time now) {
  Json json;
  json["machines"] = Json::array();
  std::map<NodeId, std::string> names;
  bool wrong = false;
  for (const CheckedMachine& machine : machines) {
    names[machine.node] = machine.name;
    json["machines"].push_back(machine_json(machine));
  }
  json["links"] = links_json(links, names, now);
  json["findings"] = Json::array();
  for (const Finding& finding : findings) {
    wrong = wrong || finding.wrong;
    json["findings"].push_back({{"kind", finding.wrong ? "wrong" : "advice"},
                                {"text", finding.text},
                                {"advice", finding.advice}});
  }
  json["wrong"] = wrong;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace conclave::cluster
