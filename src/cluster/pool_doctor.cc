#include "cluster/pool_doctor.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "cluster/bulk_messages.h"
#include "cluster/facts.h"
#include "cluster/link_message.h"

namespace conclave::cluster {
namespace {

// Whether nothing else of the pool wants the cables.
bool is_idle(const HeadSummary& pool) {
  if (pool.open_requests > 0 || pool.rebuilding) return false;
  return pool.phase != HeadPhase::kLoading && pool.phase != HeadPhase::kForming;
}

std::string said(const std::string& text) { return printable(text.substr(0, kFoundTextMax)); }

}  // namespace

PoolDoctor::PoolDoctor(PoolDoor& door, const Clock& clock)
    : door_(door),
      clock_(clock),
      prober_(door.identity(), clock),
      links_(
          [this](NodeId from, std::uint64_t id, std::optional<NodeId> to) { ask(from, id, to); }) {}

void PoolDoctor::on_hello(NodeId node, const wire::pb::Hello& hello) {
  said_[node] = {said(hello.build()), hello.host_id()};
  links_.on_hello(clock_.now(), node);
}

void PoolDoctor::on_gone(NodeId node) { links_.on_gone(node); }

void PoolDoctor::on_measured(NodeId node, const wire::pb::Measured& answer) {
  links_.on_answer(clock_.now(), node, answer);
}

void PoolDoctor::ask(NodeId from, std::uint64_t id, std::optional<NodeId> to) {
  wire::pb::Measured answer;
  answer.set_id(id);
  if (from == kHeadNode && !to) {
    *answer.mutable_checks() = to_message(check_machine(door_.state().path()));
    return on_measured(from, answer);
  }
  wire::pb::Measure request;
  request.set_id(id);
  if (to) {
    const auto caller =
        from == kHeadNode ? PoolDoor::Caller::kThisMachine : PoolDoor::Caller::kOthers;
    const std::optional<wire::pb::Endpoint> endpoint = door_.bulk_endpoint(*to, caller);
    if (!endpoint) {
      answer.mutable_link()->set_error("it does not say where: its build may be an older one");
      return on_measured(from, answer);
    }
    *request.mutable_peer() = *endpoint;
  }
  if (from != kHeadNode) return door_.ask_measure(from, request);
  Result<transport::Endpoint> peer = from_message(request.peer());
  CHECK(peer.has_value());  // the door made it
  prober_.start(id, {.node = *to, .endpoint = std::move(*peer)});
}

void PoolDoctor::poll(const HeadSummary& pool) {
  for (const LinkProber::Found& found : prober_.take()) {
    wire::pb::Measured answer;
    answer.set_id(found.id);
    *answer.mutable_link() = to_message(found.link);
    on_measured(kHeadNode, answer);
  }
  links_.on_tick(clock_.now(), is_idle(pool));
}

std::vector<CheckedMachine> PoolDoctor::machines(const HeadStatus& pool) const {
  std::vector<CheckedMachine> machines;
  for (const NodeStatus& node : pool.nodes) {
    if (node.state == "removed") continue;
    CheckedMachine machine{.node = node.node, .name = node.name};
    if (const auto who = said_.find(node.node); who != said_.end()) {
      machine.build = who->second.build;
      machine.host_id = who->second.host_id;
    }
    if (node.node == kHeadNode) {
      machine.address = "port " + std::to_string(door_.port());
    } else if (const auto at = door_.bulk_endpoint(node.node, PoolDoor::Caller::kThisMachine)) {
      machine.address = to_text(HostPort{at->host(), static_cast<std::uint16_t>(at->port())});
    }
    // Its worker may have ended: then its agent answers all the same.
    const bool connected = node.node == kHeadNode || !machine.address.empty();
    if (!node.alive && !connected) machine.absent = node.state;
    machine.lends_bytes = static_cast<std::uint64_t>(node.machine.usable_bytes);
    machine.held_bytes = node.weight_bytes;
    if (pool.layout != nullptr && node.weight_bytes > 0) {
      machine.held_bytes += pool.layout->kv_bytes;
    }
    if (const MachineChecks* checks = links_.checks(node.node)) machine.checks = *checks;
    machines.push_back(std::move(machine));
  }
  return machines;
}

Result<nlohmann::json> PoolDoctor::obey(const nlohmann::json& request, const HeadStatus& pool) {
  std::uint64_t round = 0;
  if (const auto given = request.find("round"); given == request.end()) {
    round = links_.begin_round(clock_.now());
  } else if (given->is_number_unsigned()) {
    round = given->get<std::uint64_t>();
  }
  const std::optional<PoolLinks::Progress> progress = links_.progress(round);
  if (!progress) return not_found("another check has begun meanwhile: run it again");
  if (progress->left > 0) {
    return nlohmann::json{{"round", round}, {"left", progress->left}, {"total", progress->total}};
  }
  const std::vector<CheckedMachine> checked = machines(pool);
  const std::string report =
      doctor_json(checked, links(), diagnose(checked, links()), clock_.now());
  return nlohmann::json::parse(report);
}

std::string check_this_machine(const std::filesystem::path& state_dir, const std::string& name,
                               std::uint16_t port, const Clock& clock) {
  CheckedMachine here{.node = kHeadNode, .name = name, .build = CONCLAVE_VERSION};
  here.checks = check_machine(state_dir);
  const std::vector<CheckedMachine> machines{here};
  std::vector<Finding> findings = diagnose(machines, {});
  if (const std::string why = port_problem(port); !why.empty()) {
    findings.push_back({.wrong = false,
                        .text = "a head cannot listen on port " + std::to_string(port) + ": " + why,
                        .advice = "see what does (ss -ltnp), or give it another --pool-port"});
  }
  return doctor_json(machines, {}, findings, clock.now());
}

}  // namespace conclave::cluster
