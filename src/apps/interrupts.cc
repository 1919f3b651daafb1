#include "apps/interrupts.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "apps/program.h"
#include "base/check.h"

namespace conclave::apps {
namespace {

// A signal handler gets no argument of ours: the one mutable global of the program.
std::atomic<int> presses{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_interrupt(int /*signal*/) {
  if (presses.fetch_add(1) >= 2) _exit(kExitInterrupted);
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  // No SA_RESTART: a read at the prompt must return.
  CHECK(sigemptyset(&action.sa_mask) == 0);
  CHECK(sigaction(signal, &action, nullptr) == 0);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  presses.store(0);
  handle(SIGINT, on_interrupt);
}

InterruptGuard::~InterruptGuard() { handle(SIGINT, SIG_DFL); }

bool InterruptGuard::pending() const { return presses.load() > 0; }

bool InterruptGuard::take() { return presses.exchange(0) > 0; }

void ignore_broken_pipes() { handle(SIGPIPE, SIG_IGN); }

}  // namespace conclave::apps
