#include "scenario.h"

#include <sstream>

namespace conclave::cluster_sim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// In [low, high], more often small than large.
Duration draw_duration(sim::RandomStream& random, Duration low, Duration high) {
  const double u = random.uniform();
  return low + sim::from_seconds(seconds(high - low) * u * u);
}

sim::LinkModel draw_link(sim::RandomStream random) {
  sim::LinkModel link;
  switch (random.below(3)) {
    case 0:  // Thunderbolt
      link.latency = microseconds(20 + random.below(40));
      link.bandwidth = 3e9;
      break;
    case 1:  // Ethernet
      link.latency = microseconds(50 + random.below(200));
      link.bandwidth = 1.2e9;
      link.jitter_mean = microseconds(20);
      break;
    default:  // an old one
      link.latency = microseconds(200 + random.below(800));
      link.bandwidth = 1.2e8;
      link.jitter_mean = microseconds(100);
  }
  return link;
}

// That only machines other than the head can have.
bool of_a_node(FaultKind kind) {
  return kind == FaultKind::kBetween || kind == FaultKind::kDrain || kind == FaultKind::kJoin;
}

// Of what is never mended: the rest is to go on without it.
double forever_probability(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kWorkerHang:
    case FaultKind::kWorkerStuck:
      return 0.5;  // until it is killed
    case FaultKind::kPartition:
    case FaultKind::kOneWay:
    case FaultKind::kNodeCrash:
    case FaultKind::kFreeze:
    case FaultKind::kBetween:
    case FaultKind::kAgentCrash:
    case FaultKind::kAgentStop:
    case FaultKind::kDrain:
      return fault.node != 0 ? 0.15 : 0.0;
    default:
      return 0.0;
  }
}

Fault draw_fault(sim::RandomStream random, std::size_t n_nodes, const ScenarioTimes& times) {
  Fault fault;
  fault.kind = static_cast<FaultKind>(random.below(kFaultKinds));
  fault.node = random.below(n_nodes);
  if (of_a_node(fault.kind)) fault.node = n_nodes == 1 ? 0 : 1 + random.below(n_nodes - 1);
  if (fault.kind == FaultKind::kBetween && n_nodes > 2) {
    fault.other = 1 + (fault.node + random.below(n_nodes - 2)) % (n_nodes - 1);
  }
  fault.both_ways = random.chance(0.5);
  fault.backwards = random.chance(0.5);
  fault.at_phase = random.chance(0.6);
  fault.at = Time{} + draw_duration(random, {}, times.faults);
  fault.phase = static_cast<Phase>(random.below(kPhases));
  fault.nth = random.below(fault.phase == Phase::kLoad      ? 24
                           : fault.phase == Phase::kReplan  ? 2
                           : fault.phase == Phase::kPrefill ? 60
                                                            : 300);
  fault.lasts = draw_duration(random, milliseconds(1), times.lasts);
  fault.strength = random.uniform();
  fault.forever = random.chance(forever_probability(fault));
  // Most clusters keep their head.
  const bool ends_head =
      fault.kind == FaultKind::kNodeCrash || fault.kind == FaultKind::kAgentCrash;
  if (ends_head && fault.node == 0 && random.chance(0.5)) fault.kind = FaultKind::kWorkerCrash;
  return fault;
}

// What makes the head plan anew, so that a fault can strike then.
Fault draw_cause(sim::RandomStream random, std::size_t n_nodes) {
  Fault fault;
  fault.kind = FaultKind::kWorkerCrash;
  fault.node = random.below(n_nodes);
  fault.at_phase = true;
  fault.phase = random.chance(0.5) ? Phase::kPrefill : Phase::kDecode;
  fault.nth = random.below(30);
  fault.lasts = milliseconds(1);
  return fault;
}

std::size_t draw_n_faults(sim::RandomStream random) {
  const double u = random.uniform();
  if (u < 0.05) return 0;
  if (u < 0.65) return 1 + random.below(3);
  return 4 + random.below(6);  // a bad day
}

ScenarioRequest draw_request(sim::RandomStream random, const ScenarioTimes& times) {
  ScenarioRequest request;
  request.at = Time{} + sim::from_seconds(seconds(times.faults) * random.uniform());
  request.prompt_tokens = 1 + random.below(150);
  request.answer_tokens = 1 + random.below(40);
  request.seed = random.next();
  if (random.chance(0.15)) {
    request.cancel_after = draw_duration(random, milliseconds(1), times.faults);
  }
  return request;
}

}  // namespace

Scenario draw_scenario(std::uint64_t seed, const ScenarioTimes& times) {
  // Each part draws from its own stream: a new kind of fault moves no other part of a seed.
  const sim::RandomStream random = sim::World(seed).stream("scenario");
  sim::RandomStream shape = random.child(0);
  Scenario scenario;
  scenario.seed = seed;
  scenario.n_nodes = 1 + shape.below(5);
  scenario.absent.resize(scenario.n_nodes);
  scenario.cabling = shape.chance(0.5) ? sim::Cabling::kPerNode : sim::Cabling::kPerPair;
  scenario.link = draw_link(random.child(1));
  const std::size_t n_requests = 1 + shape.below(8);
  for (std::size_t i = 0; i < n_requests; ++i) {
    scenario.requests.push_back(draw_request(random.child(2).child(i), times));
  }
  const std::size_t n_faults = draw_n_faults(random.child(3));
  for (std::size_t i = 0; i < n_faults; ++i) {
    const Fault fault = draw_fault(random.child(4).child(i), scenario.n_nodes, times);
    const bool on_network = fault.kind <= FaultKind::kOneWay;
    if (scenario.n_nodes == 1 && (on_network || of_a_node(fault.kind))) continue;
    if (scenario.n_nodes == 2 && fault.kind == FaultKind::kBetween) continue;
    if (fault.kind == FaultKind::kJoin) scenario.absent[fault.node] = true;
    if (fault.at_phase && fault.phase == Phase::kReplan) {
      scenario.faults.push_back(draw_cause(random.child(5).child(i), scenario.n_nodes));
    }
    scenario.faults.push_back(fault);
  }
  scenario.faults_end = Time{} + times.faults + times.lasts;
  return scenario;
}

std::string describe(const Scenario& scenario) {
  std::ostringstream text;
  text << "seed=" << scenario.seed << " nodes=" << scenario.n_nodes
       << " latency_us=" << seconds(scenario.link.latency) * 1e6
       << " requests=" << scenario.requests.size();
  for (const Fault& fault : scenario.faults) text << "\n  " << describe(fault);
  return text.str();
}

}  // namespace conclave::cluster_sim
