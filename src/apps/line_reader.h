// Lines and whole input from a file descriptor, where Ctrl-C must be seen.
#pragma once

#include <string>

#include "base/result.h"

namespace conclave::apps {

class LineReader {
 public:
  explicit LineReader(int fd) : fd_(fd) {}

  enum class Outcome { kLine, kEnd, kInterrupted };
  // The next line without its newline. A signal during the read gives kInterrupted. A line above
  // 1 MiB is an error.
  Result<Outcome> next(std::string& line);

 private:
  int fd_;
  std::string held_;
  bool ended_ = false;
};

// Everything until the end of the input, at most 64 MiB.
Result<std::string> read_all(int fd);

}  // namespace conclave::apps
