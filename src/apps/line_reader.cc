#include "apps/line_reader.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <system_error>

namespace conclave::apps {
namespace {

constexpr std::size_t kLineBytesMax = std::size_t{1} << 20;
constexpr std::size_t kInputBytesMax = std::size_t{64} << 20;

Error read_error() {
  return unavailable(
      fmt::format("input: {}: nothing more was read", std::generic_category().message(errno)));
}

}  // namespace

Result<LineReader::Outcome> LineReader::next(std::string& line) {
  std::array<char, 4096> buffer;
  while (true) {
    const std::size_t newline = held_.find('\n');
    if (newline != std::string::npos) {
      line = held_.substr(0, newline);
      held_.erase(0, newline + 1);
      return Outcome::kLine;
    }
    if (ended_) {
      line = std::exchange(held_, {});
      return line.empty() ? Outcome::kEnd : Outcome::kLine;
    }
    if (held_.size() > kLineBytesMax) return invalid_input("input: a line is above 1 MiB: use -p");
    const ssize_t got = read(fd_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) return Outcome::kInterrupted;
    if (got < 0) return read_error();
    ended_ = got == 0;
    held_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

Result<std::string> read_all(int fd) {
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (true) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return read_error();
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
    if (text.size() > kInputBytesMax) return invalid_input("input: above 64 MiB: give less text");
  }
}

}  // namespace conclave::apps
