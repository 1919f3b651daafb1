// What goes wrong in a simulated cluster, and when.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/sim.h"
#include "sim_transport.h"

namespace conclave::cluster_sim {

enum class FaultKind : std::uint8_t {
  kLoss,         // of messages from and to a node
  kDuplication,  //
  kDelay,        // a slow and trembling link
  kReordering,   //
  kPartition,    // a node hears and reaches none
  kOneWay,       // a node is heard by none, or hears none
  kWorkerCrash,  // its agent lives and starts another
  kWorkerHang,   // its agent lives, the worker stands still and goes on later
  kNodeCrash,    // the machine, and it comes back
  kFreeze,       // the machine stands still and goes on later
  kSlowNode,     // computations take many times as long
  kJoin,         // a machine that was not there starts
  kEpochRace,    // messages of an epoch come in the next one
  kBetween,      // two nodes other than the head do not reach each other, or one not the other
  kWorkerStuck,  // as kWorkerHang, but its heartbeat goes on
  kAgentCrash,   // the agent's process, and the worker with it; the machine's kernel lives
  kAgentStop,    // the agent stands still while its worker goes on
  kDrain,        // the owner lets a node go; then its agent is started again
};
inline constexpr std::size_t kFaultKinds = 18;
std::string_view name_of(FaultKind kind);

// What the cluster is doing, as its own code says by FaultInjector::reached().
enum class Phase : std::uint8_t { kLoad, kPrefill, kDecode, kReplan };
inline constexpr std::size_t kPhases = 4;
std::string_view name_of(Phase phase);

struct Fault {
  FaultKind kind = FaultKind::kLoss;
  std::size_t node = 0;
  std::size_t other = 0;   // kBetween
  bool backwards = false;  // kOneWay: the node hears none; kBetween: it does not hear `other`
  bool both_ways = false;  // kBetween
  bool at_phase = false;   // fires when `phase` is reached the `nth` time, else at `at`
  Time at{};
  Phase phase = Phase::kLoad;
  std::size_t nth = 0;
  Duration lasts{};       // then what was broken is mended,
  bool forever = false;   // unless it never is
  double strength = 0.0;  // in (0, 1)
};
std::string describe(const Fault& fault);

// How often each kind of fault struck in each phase.
struct Coverage {
  std::array<std::array<std::uint64_t, kPhases>, kFaultKinds> fired{};
  void add(const Coverage& other);
  std::string table() const;
};

// What faults act on: the system under test on its machines.
class Machines {
 public:
  virtual ~Machines() = default;
  // The node is up and nothing runs there: its agent starts.
  virtual void start(std::size_t node) = 0;
  // Nothing of the node runs any more. The network's crash of it came before.
  virtual void crash(std::size_t node) = 0;
  virtual bool running(std::size_t node) const = 0;  // an agent
  // The others: false where there is nothing to break.
  virtual bool crash_agent(std::size_t node) = 0;
  virtual bool stop_agent(std::size_t node) = 0;
  virtual void continue_agent(std::size_t node) = 0;
  virtual bool crash_worker(std::size_t node) = 0;
  virtual bool hang_worker(std::size_t node) = 0;
  virtual bool stick_worker(std::size_t node) = 0;
  // Of the worker that was hung or stuck, unless it has been killed meanwhile.
  virtual void unhang_worker(std::size_t node) = 0;
  virtual bool drain(std::size_t node) = 0;
};

class FaultInjector {
 public:
  // All references must outlive the injector. `link` is that of all pairs.
  FaultInjector(sim::World& world, sim::Network& network, SimSwitch& data_plane, Machines& machines,
                std::vector<Fault> faults, const sim::LinkModel& link);
  FaultInjector(const FaultInjector&) = delete;
  FaultInjector& operator=(const FaultInjector&) = delete;

  // Faults of a phase that have not come by `end` do not come any more.
  void start(Time end);
  // The system under test says what it does. True: a fault strikes in an event of this time, so a
  // process is to pause(), and the fault strikes exactly there.
  bool reached(Phase phase);
  // A fault that disturbs the network or the speed of this node is at work. Between two nodes, the
  // one with the higher number is to give way.
  bool troubled(std::size_t node) const;

  const Coverage& coverage() const { return coverage_; }

 private:
  void fire(const Fault& fault);
  bool strike(const Fault& fault);
  bool strike_node(const Fault& fault);
  void mend(const Fault& fault);
  void mend_node(const Fault& fault);
  bool crash_node(std::size_t node);
  void set_links();
  bool running(std::size_t node) const { return network_.up(node) && !network_.frozen(node); }

  sim::World& world_;
  sim::Network& network_;
  SimSwitch& switch_;
  Machines& machines_;
  std::vector<Fault> armed_;  // that wait for a phase
  sim::LinkModel link_;
  std::vector<Fault> active_;
  Time end_{};
  Phase phase_ = Phase::kLoad;
  std::array<std::size_t, kPhases> n_reached_{};
  Coverage coverage_;
};

}  // namespace conclave::cluster_sim
