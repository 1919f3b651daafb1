// Ctrl-C as a flag that the work looks at between steps.
#pragma once

namespace conclave::apps {

// While one lives, SIGINT sets a flag instead of ending the program. A third Ctrl-C that nobody has
// looked at ends the program at once with code 130: the way out of a step that takes minutes.
// At most one at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool pending() const;  // Ctrl-C was pressed since the last take()
  bool take();           // the same, and forgets it
};

// Writing to a closed pipe becomes an error of write() instead of a signal. Call once, early.
void ignore_broken_pipes();

}  // namespace conclave::apps
