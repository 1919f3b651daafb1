// Runs one scenario against a system: the code under test on simulated machines.
//
// This is the seam between the machinery (world, network, fibers, data plane, faults) and what is
// tested. A System is an adaptor: it builds agents and workers from production code and connects
// their inputs to events of the world.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "faults.h"
#include "process.h"
#include "scenario.h"
#include "sim_transport.h"

namespace conclave::cluster_sim {

// What a System is given. All of it outlives the system.
struct Surroundings {
  Machinery machinery;
  SimSwitch& data_plane;
  const Scenario& scenario;
  // To be called where the system gets there. True: a fault strikes in an event of this time, and a
  // process is to pause().
  std::function<bool(Phase)> reached;
  // Whether a fault disturbs this machine at this moment, so that it may be taken for lost.
  std::function<bool(std::size_t node)> troubled;
  std::function<std::uint64_t()> new_id;  // random, not 0
};

class System : public Machines {
 public:
  // A client's request comes to the head machine, which may be down.
  virtual void submit(const ScenarioRequest& request) = 0;
  // Every request so far was answered or has failed with a stated error, and nothing is left to do.
  virtual bool idle() const = 0;
  // A promise that was broken: the run ends. Such as "request 1: token 3 is 17, not 12".
  virtual std::optional<std::string> violation() const = 0;
  // For the message when the system does not become idle.
  virtual std::string describe() const = 0;
};

using MakeSystem = std::function<std::unique_ptr<System>(const Surroundings&)>;

struct Outcome {
  std::optional<std::string> failure;
  Coverage coverage;
  SwitchStats data_plane;
  std::uint64_t trace = 0;  // equal for equal histories
  Duration took{};          // virtual time
};

struct RunLimits {
  Duration after_faults = std::chrono::seconds(60);  // to end all requests once all is mended
  std::size_t events = 5'000'000;
};

// `look`: at the system, once it has ended.
Outcome run(const Scenario& scenario, const MakeSystem& make_system, sim::FiberStacks& stacks,
            const RunLimits& limits = {}, const std::function<void(const System&)>& look = {});

}  // namespace conclave::cluster_sim
