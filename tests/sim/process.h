// A process of a simulated machine: code that waits, unchanged, in a fiber of its own.
//
//   Process worker({world, network, stacks}, node, [&](Process& self) { ... self.wait(deadline);
//   });
//
// It runs only in events of its node, so it is frozen with the node. Destroying it is its crash:
// its stack is unwound and it runs no statement more. Where its node crashes too, the network's
// crash comes first, so that no farewell leaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "sim/sim.h"

namespace conclave::cluster_sim {

struct Machinery {
  sim::World& world;
  sim::Network& network;
  sim::FiberStacks& stacks;
};

class Process {
 public:
  // `main` starts in an event of its own, at this time. The node must be up.
  Process(const Machinery& machinery, std::size_t node, std::function<void(Process&)> main);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  std::size_t node() const { return node_; }
  sim::World& world() const { return machinery_.world; }
  sim::Network& network() const { return machinery_.network; }

  // From outside: wait() returns. One that comes between two waits is not lost.
  void wake();
  // A process that is stopped while its machine runs: its waits and computations do not end.
  void set_hung(bool hung);
  bool hung() const { return hung_; }
  bool ended() const { return fiber_.finished(); }

  // From inside. Until wake() or the deadline; Time::max() waits for wake() alone.
  void wait(Time deadline);
  // Keeps a processor busy for so long; more on a slow node.
  void compute(Duration duration);
  // Lets every event of this time run that was scheduled before, such as this process's crash.
  void pause();

 private:
  sim::Callback resumption();
  void run();
  void suspend();

  Machinery machinery_;
  std::size_t node_;
  bool waiting_ = false;
  bool woken_ = false;
  bool hung_ = false;
  bool missed_ = false;  // it should have run while it was hung
  std::uint64_t n_suspensions_ = 0;
  std::shared_ptr<int> life_ = std::make_shared<int>(0);  // events hold it weakly: it may crash
  sim::Fiber fiber_;  // last: its unwinding may still use the rest
};

}  // namespace conclave::cluster_sim
