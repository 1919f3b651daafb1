// Assertions that stay on in release builds. A failed CHECK is a bug in conclave, never bad input.
#pragma once

namespace conclave {

// Prints `file:line: CHECK failed: what` to stderr and aborts.
[[noreturn]] void check_failed(const char* what, const char* file, int line);

}  // namespace conclave

#define CHECK(condition)                  \
  (static_cast<bool>(condition) ? void(0) \
                                : ::conclave::check_failed(#condition, __FILE__, __LINE__))

// For loops that run per element: checked in debug and sanitizer builds only.
#ifdef NDEBUG
#define DCHECK(condition) void(0)
#else
#define DCHECK(condition) CHECK(condition)
#endif
