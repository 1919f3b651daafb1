#include "sim/fiber.h"

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sim/switch_notes.h"

namespace conclave::sim {
namespace {

namespace context = boost::context;

StackRange range_of(const context::stack_context& stack) {
  return {static_cast<char*>(stack.sp) - stack.size, stack.size};
}

}  // namespace

struct FiberStacks::State {
  explicit State(std::size_t stack_bytes) : allocator(stack_bytes) {}

  context::protected_fixedsize_stack allocator;
  std::vector<context::stack_context> kept;
  std::size_t in_use = 0;

  context::stack_context allocate() {
    ++in_use;
    if (kept.empty()) return allocator.allocate();
    const context::stack_context stack = kept.back();
    kept.pop_back();
    return stack;
  }

  void deallocate(context::stack_context& stack) {
    --in_use;
    // Frames of functions that never returned are still marked as out of bounds.
    SwitchNotes::unpoison(range_of(stack));
    if (kept.size() < kFiberStacksKeptMax) {
      kept.push_back(stack);
    } else {
      allocator.deallocate(stack);
    }
  }
};

FiberStacks::FiberStacks(std::size_t stack_bytes) : state_(std::make_unique<State>(stack_bytes)) {}

FiberStacks::~FiberStacks() {
  CHECK(state_->in_use == 0);
  for (context::stack_context& stack : state_->kept) state_->allocator.deallocate(stack);
}

std::size_t FiberStacks::in_use() const { return state_->in_use; }

std::size_t FiberStacks::kept() const { return state_->kept.size(); }

namespace {

// Gives a stack back when the library has ended its fiber.
struct StackReturn {
  FiberStacks::State* stacks;
  void deallocate(context::stack_context& stack) { stacks->deallocate(stack); }
};

enum class Status : std::uint8_t { kNew, kSuspended, kRunning, kUnwinding, kFinished };

// Notes what happens on the fiber's own stack where a function is left, also by unwinding.
struct EnteredAtExit {
  SwitchNotes& notes;
  ~EnteredAtExit() { notes.entered(); }
};
struct EndingAtExit {
  SwitchNotes& notes;
  ~EndingAtExit() { notes.ending(); }
};

}  // namespace

struct Fiber::State {
  State(FiberStacks::State& of, std::function<void(Fiber&)> function)
      : stacks(of), body(std::move(function)) {}

  FiberStacks::State& stacks;
  std::function<void(Fiber&)> body;
  Status status = Status::kNew;
  context::fiber inside;   // where the body waits
  context::fiber outside;  // where resume() was called
  StackRange stack;
  SwitchNotes notes;
};

Fiber::Fiber(FiberStacks& stacks, std::function<void(Fiber&)> body)
    : state_(std::make_unique<State>(*stacks.state_, std::move(body))) {
  CHECK(state_->body != nullptr);
}

Fiber::~Fiber() {
  State& s = *state_;
  CHECK(s.status != Status::kRunning && s.status != Status::kUnwinding);
  if (s.status != Status::kSuspended) return;
  s.status = Status::kUnwinding;
  s.notes.leaving(s.stack);
  s.inside = context::fiber();  // the library unwinds what it held
  s.notes.returned(true);
}

void Fiber::resume() {
  State& s = *state_;
  CHECK(s.status == Status::kNew || s.status == Status::kSuspended);
  if (s.status == Status::kNew) {
    enter();
  } else {
    s.status = Status::kRunning;
    s.notes.leaving(s.stack);
    s.inside = std::move(s.inside).resume();
  }
  const bool finished = !s.inside;
  s.status = finished ? Status::kFinished : Status::kSuspended;
  s.notes.returned(finished);
}

void Fiber::enter() {
  State& s = *state_;
  const context::stack_context stack = s.stacks.allocate();
  s.stack = range_of(stack);
  s.status = Status::kRunning;
  s.notes.leaving(s.stack);
  // Making it already visits the new stack, hence after leaving().
  s.inside = context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
                            StackReturn{&s.stacks}, [this](context::fiber&& outside) {
                              State& state = *state_;
                              state.outside = std::move(outside);
                              state.notes.entered();
                              {
                                const EndingAtExit ending{state.notes};
                                state.body(*this);
                              }
                              return std::move(state.outside);
                            });
  s.inside = std::move(s.inside).resume();
}

void Fiber::yield() {
  State& s = *state_;
  CHECK(s.status == Status::kRunning);
  const EnteredAtExit entered{s.notes};
  s.notes.suspending();
  s.outside = std::move(s.outside).resume();
}

bool Fiber::running() const { return state_->status == Status::kRunning; }

bool Fiber::finished() const { return state_->status == Status::kFinished; }

}  // namespace conclave::sim
