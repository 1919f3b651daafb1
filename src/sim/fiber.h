// Code that waits, in a world where nothing may block: a function with a stack of its own, which
// gives up the processor where it waits and goes on when somebody resumes it.
//
//   FiberStacks stacks;
//   Fiber worker(stacks, [&](Fiber& self) { while (inbox.empty()) self.yield(); ... });
//   worker.resume();   // runs until yield() or the end
//
// Destroying a suspended fiber is how a process crashes: its stack is unwound, so that what lives
// on it is destroyed, and no statement of it runs again.
//
// Threads: all fibers of one FiberStacks belong to one thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace conclave::sim {

// A worker's loop with engine, collective and protobuf below it needs about a third of this. Below
// each stack lies a page that may not be touched: a fiber that needs more ends the program.
inline constexpr std::size_t kFiberStackBytes = std::size_t{256} << 10;
// Stacks that wait to be used again; further ones are given back.
inline constexpr std::size_t kFiberStacksKeptMax = 256;

// Stacks of ended fibers, for the next ones: thousands of simulated histories start many.
class FiberStacks {
 public:
  explicit FiberStacks(std::size_t stack_bytes = kFiberStackBytes);
  ~FiberStacks();  // CHECKs that no fiber uses one
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;

  std::size_t in_use() const;
  std::size_t kept() const;

  struct State;  // for Fiber

 private:
  friend class Fiber;
  std::unique_ptr<State> state_;
};

class Fiber {
 public:
  // Runs nothing yet. `stacks` must outlive the fiber. Exceptions must not leave `body`.
  Fiber(FiberStacks& stacks, std::function<void(Fiber&)> body);
  // Unwinds a suspended body. CHECKs that it is not running: a fiber cannot end itself.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // From outside; CHECKs that it is neither running nor finished. Fibers may resume others.
  void resume();
  // From inside. CHECKs against a destructor that waits while the stack is unwound.
  void yield();

  bool running() const;
  bool finished() const;

 private:
  struct State;
  void enter();
  std::unique_ptr<State> state_;
};

}  // namespace conclave::sim
