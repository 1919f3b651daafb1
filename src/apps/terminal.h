// What a person sees: terminal detection, plain or dim text, one progress line, checked output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "apps/config.h"
#include "base/clock.h"
#include "base/result.h"

namespace conclave::apps {

struct Terminal {
  bool stdin_is_tty = false;
  bool stdout_is_tty = false;
  bool stderr_is_tty = false;
  bool color = false;      // neither NO_COLOR nor TERM=dumb is set
  std::size_t width = 80;  // columns of stderr

  bool color_stdout() const { return color && stdout_is_tty; }
  bool color_stderr() const { return color && stderr_is_tty; }
};
Terminal detect_terminal(const Environment& environment);

std::string dim(std::string_view text, bool color);

// Without control characters other than newline and tab: what a model writes must not be able to
// steer the terminal.
std::string without_controls(std::string_view text);

// A number of bytes for people: "45.5 MB", "594.21 GB" (powers of ten).
std::string human_bytes(std::uint64_t bytes);

// A file descriptor that reports what it could not write.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) {}
  // Unbuffered: callers hand over large pieces. Errors: the disk is full, the reader is gone.
  Result<void> write(std::string_view text);
  // True once the reader has gone (EPIPE): the program then ends without a message.
  bool closed() const { return closed_; }

 private:
  int fd_;
  bool closed_ = false;
};

// Writes to stderr, where a lost message has no better place to be reported.
void say(std::string_view text);

// "loading 43 % 1.2 GB/s", redrawn at most ten times a second on a terminal; elsewhere one line
// every ten seconds, so that a log of a long load shows life. Quick work prints nothing.
class ProgressLine {
 public:
  // `clock` must outlive the line.
  ProgressLine(const Clock& clock, const Terminal& terminal, std::string label, bool quiet);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void update_bytes(std::uint64_t done, std::uint64_t total);
  void update_items(std::uint64_t done, std::uint64_t total, std::string_view unit);
  void clear();  // removes the line from the terminal

 private:
  bool due();
  void draw(const std::string& text);

  const Clock& clock_;
  std::string label_;
  bool quiet_;
  bool tty_;
  std::size_t width_;
  Time start_;
  std::optional<Time> drawn_;
  std::optional<std::uint64_t> begun_at_;  // bytes at the first update
  bool visible_ = false;
};

}  // namespace conclave::apps
