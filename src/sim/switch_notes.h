// Tells the sanitizers that the stack is being switched; they cannot see it. The only place that
// knows which one is compiled in.
//
//   outside:  leaving(stack); <switch> returned(finished);
//   inside:   entered(); ... suspending(); <switch> entered(); ... ending(); <switch>
#pragma once

#include <cstddef>

namespace conclave::sim {

struct StackRange {
  void* bottom = nullptr;
  std::size_t bytes = 0;
};

}  // namespace conclave::sim

#if defined(__has_feature)
#define CONCLAVE_HAS_FEATURE(x) __has_feature(x)
#else
#define CONCLAVE_HAS_FEATURE(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || CONCLAVE_HAS_FEATURE(address_sanitizer)

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

namespace conclave::sim {

class SwitchNotes {
 public:
  void leaving(const StackRange& stack) {
    __sanitizer_start_switch_fiber(&outside_fake_, stack.bottom, stack.bytes);
  }
  void returned(bool finished) {
    __sanitizer_finish_switch_fiber(outside_fake_, nullptr, nullptr);
    if (finished && inside_fake_ != nullptr) drop_inside();
  }
  void entered() {
    __sanitizer_finish_switch_fiber(inside_fake_, &outside_bottom_, &outside_bytes_);
    inside_fake_ = nullptr;
  }
  void suspending() {
    __sanitizer_start_switch_fiber(&inside_fake_, outside_bottom_, outside_bytes_);
  }
  // The frames of the last functions still stand in the fake stack, so it is dropped by returned().
  void ending() { suspending(); }
  static void unpoison(const StackRange& stack) {
    __asan_unpoison_memory_region(stack.bottom, stack.bytes);
  }

 private:
  // A switch to the finished fiber and its death there, without going: the one way to free its fake
  // stack.
  void drop_inside() {
    const void* bottom = nullptr;
    std::size_t bytes = 0;
    __sanitizer_start_switch_fiber(&outside_fake_, outside_bottom_, outside_bytes_);
    __sanitizer_finish_switch_fiber(inside_fake_, &bottom, &bytes);
    __sanitizer_start_switch_fiber(nullptr, bottom, bytes);
    __sanitizer_finish_switch_fiber(outside_fake_, nullptr, nullptr);
    inside_fake_ = nullptr;
  }

  void* outside_fake_ = nullptr;
  void* inside_fake_ = nullptr;
  const void* outside_bottom_ = nullptr;
  std::size_t outside_bytes_ = 0;
};

}  // namespace conclave::sim

#elif defined(__SANITIZE_THREAD__) || CONCLAVE_HAS_FEATURE(thread_sanitizer)

#include <sanitizer/tsan_interface.h>

namespace conclave::sim {

// TSan's record of who called whom switches too, so a function that switches must not be one that
// returns: all are inlined.
#define CONCLAVE_INLINED __attribute__((always_inline))

class SwitchNotes {
 public:
  CONCLAVE_INLINED void leaving(const StackRange&) {
    outside_ = __tsan_get_current_fiber();
    if (inside_ == nullptr) inside_ = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(inside_, 0);
  }
  // An ended fiber is left here, outside: functions still return on its stack after ending().
  CONCLAVE_INLINED void returned(bool finished) {
    if (!finished) return;
    __tsan_switch_to_fiber(outside_, 0);
    __tsan_destroy_fiber(inside_);
    inside_ = nullptr;
  }
  void entered() {}
  CONCLAVE_INLINED void suspending() { __tsan_switch_to_fiber(outside_, 0); }
  void ending() {}
  static void unpoison(const StackRange&) {}

 private:
  void* outside_ = nullptr;
  void* inside_ = nullptr;
};

#undef CONCLAVE_INLINED

}  // namespace conclave::sim

#else

namespace conclave::sim {

class SwitchNotes {
 public:
  void leaving(const StackRange&) {}
  void returned(bool) {}
  void entered() {}
  void suspending() {}
  void ending() {}
  static void unpoison(const StackRange&) {}
};

}  // namespace conclave::sim

#endif

#undef CONCLAVE_HAS_FEATURE
