#include "apps/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <system_error>

namespace conclave::apps {
namespace {

using namespace std::chrono_literals;

constexpr auto kFirstDraw = 300ms;  // work that is done sooner needs no line
constexpr auto kRedraw = 100ms;
constexpr auto kLogInterval = 10s;

std::size_t columns(int fd) {
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

double percent(std::uint64_t done, std::uint64_t total) {
  return total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total);
}

}  // namespace

Terminal detect_terminal(const Environment& environment) {
  Terminal terminal;
  terminal.stdin_is_tty = isatty(STDIN_FILENO) != 0;
  terminal.stdout_is_tty = isatty(STDOUT_FILENO) != 0;
  terminal.stderr_is_tty = isatty(STDERR_FILENO) != 0;
  const bool refused = !environment("NO_COLOR").value_or("").empty();
  terminal.color = !refused && environment("TERM").value_or("dumb") != "dumb";
  terminal.width = columns(STDERR_FILENO);
  return terminal;
}

std::string dim(std::string_view text, bool color) {
  if (!color || text.empty()) return std::string(text);
  return fmt::format("\x1b[2m{}\x1b[22m", text);
}

std::string without_controls(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0xc2 && i + 1 < text.size()) {
      // U+0080..U+009F are control characters too: U+009B starts an escape sequence.
      const auto next = static_cast<unsigned char>(text[i + 1]);
      if (next >= 0x80 && next <= 0x9f) {
        ++i;
        continue;
      }
    }
    const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
    if (!control) clean += text[i];
  }
  return clean;
}

std::string human_bytes(std::uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes < 1000) return fmt::format("{} B", bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} kB", value / 1e3);
  if (bytes < 10'000'000'000) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

Result<void> Output::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd_, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
      continue;
    }
    if (errno == EINTR) continue;
    closed_ = errno == EPIPE;
    return unavailable(fmt::format("output: {}: nothing more was written",
                                   std::generic_category().message(errno)));
  }
  return {};
}

void say(std::string_view text) {
  Output error_output(STDERR_FILENO);
  static_cast<void>(error_output.write(text));
}

ProgressLine::ProgressLine(const Clock& clock, const Terminal& terminal, std::string label,
                           bool quiet)
    : clock_(clock),
      label_(std::move(label)),
      quiet_(quiet),
      tty_(terminal.stderr_is_tty),
      width_(terminal.width),
      start_(clock.now()) {}

ProgressLine::~ProgressLine() { clear(); }

bool ProgressLine::due() {
  if (quiet_) return false;
  const Time now = clock_.now();
  const Duration wait = !tty_ ? Duration(kLogInterval) : drawn_ ? Duration(kRedraw) : kFirstDraw;
  if (now - drawn_.value_or(start_) < wait) return false;
  drawn_ = now;
  return true;
}

void ProgressLine::draw(const std::string& text) {
  if (!tty_) return say(text + "\n");
  // A wrapped line could not be redrawn in place.
  say("\r\x1b[K" + text.substr(0, width_ > 1 ? width_ - 1 : 0));
  visible_ = true;
}

void ProgressLine::update_bytes(std::uint64_t done, std::uint64_t total) {
  if (total == 0) return;
  if (!begun_at_) begun_at_ = done;  // what was there already came at no speed
  if (!due()) return;
  const double elapsed = seconds(clock_.now() - start_);
  const double came = static_cast<double>(done - std::min(done, *begun_at_));
  const double rate = elapsed > 0 ? came / elapsed / 1e6 : 0.0;
  draw(fmt::format("{}  {:.0f} %  of {}  {:.0f} MB/s", label_, percent(done, total),
                   human_bytes(total), rate));
}

void ProgressLine::update_items(std::uint64_t done, std::uint64_t total, std::string_view unit) {
  if (!due()) return;
  const double elapsed = seconds(clock_.now() - start_);
  const double rate = elapsed > 0 ? static_cast<double>(done) / elapsed : 0.0;
  draw(fmt::format("{}  {}/{} {}  {:.1f}/s", label_, done, total, unit, rate));
}

void ProgressLine::clear() {
  if (visible_) say("\r\x1b[K");
  visible_ = false;
}

}  // namespace conclave::apps
