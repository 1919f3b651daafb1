#include "apps/pool_flags.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <thread>

#include "apps/options.h"
#include "apps/probe_measure.h"
#include "apps/terminal.h"
#include "base/memory_size.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kProbeMemoryMin = std::size_t{512} << 20;
constexpr std::size_t kProbeMemoryMax = std::size_t{2} << 30;
constexpr double kUsableShare = 0.9;  // the rest is the system's

}  // namespace

void add_pool_flags(CLI::App& command, PoolFlags& flags) {
  command.add_option("--name", flags.name,
                     "name of this machine in the pool (default: the host's)");
  command.add_option("--state", flags.state,
                     "folder for keys and members (default: $CONCLAVE_STATE, else "
                     "~/.local/state/conclave)");
  command.add_option("--memory", flags.memory,
                     "what weights and caches may take here: 24GB, 900MB (default: nine tenths)");
  command
      .add_option("--bandwidth", flags.bandwidth_gb,
                  "memory bandwidth in GB/s, instead of measuring it for some seconds")
      ->check(CLI::Range(0.001, 1e6));
  command.add_flag("--private-link", flags.clear,
                   "the cables between the machines are mine alone: no encryption between ranks");
  command.add_flag("--no-shared-memory", flags.no_shared_memory)->group("");
  command.add_option("--delay-us", flags.delay_us)->group("");  // tests: each message so much later
  command.add_option("--pace", flags.pace)->group("");  // tests: computes this share of the time
}

Result<std::uint64_t> parse_memory(std::string_view text, std::string_view flag) {
  const Error wrong =
      invalid_input(fmt::format("{} {}: give a number and MB, GB or TB, as in 24GB", flag, text));
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !(number > 0.0)) return wrong;
  std::string unit;
  for (const char c :
       std::string_view(end, static_cast<std::size_t>(text.data() + text.size() - end))) {
    if (c != ' ') unit.push_back(static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  }
  double factor = 0.0;
  if (unit == "MB" || unit == "M") factor = 1e6;
  if (unit == "GB" || unit == "G") factor = 1e9;
  if (unit == "TB" || unit == "T") factor = 1e12;
  if (factor == 0.0 || number * factor > 1e16) return wrong;
  return static_cast<std::uint64_t>(number * factor);
}

std::string host_name() {
  char buffer[256] = {};
  if (::gethostname(buffer, sizeof(buffer) - 1) != 0 || buffer[0] == 0) return "this-machine";
  return buffer;
}

std::string host_id() {
  // New with each start of the machine, and the same in all of its containers.
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

Result<plan::Machine> this_machine(Program& program, const PoolFlags& flags, const std::string& isa,
                                   std::size_t threads) {
  const std::uint64_t total = memory_size_bytes().value_or(0);
  std::uint64_t usable = static_cast<std::uint64_t>(kUsableShare * static_cast<double>(total));
  if (!flags.memory.empty()) {
    usable = TRY(parse_memory(flags.memory, "--memory"));
    if (total > 0 && usable > total) {
      return usage_error(program, invalid_input(fmt::format("--memory {}: this machine has {}",
                                                            flags.memory, human_bytes(total))));
    }
  }
  plan::Machine machine;
  if (flags.bandwidth_gb > 0.0) {
    machine.peak_bandwidth = flags.bandwidth_gb * 1e9;
  } else {
    if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
    std::error_code error;
    const std::filesystem::path temporary = std::filesystem::temp_directory_path(error);
    if (error) return unavailable("no folder for temporary files: set TMPDIR");
    say("measuring this machine: some seconds\n");
    machine = TRY(probe_machine(program.clock,
                                {.name = "here",
                                 .isa = isa,
                                 .threads = threads,
                                 .busy = flags.pace,
                                 .memory_bytes = std::clamp(2 * last_level_cache_bytes(),
                                                            kProbeMemoryMin, kProbeMemoryMax)},
                                temporary));
  }
  machine.name = flags.name.empty() ? host_name() : flags.name;
  machine.memory_bytes = static_cast<double>(std::max(total, usable));
  machine.usable_bytes = static_cast<double>(usable);
  return machine;
}

void apply(const PoolFlags& flags, cluster::WorkerOptions& worker) {
  worker.shared_memory = !flags.no_shared_memory;
  worker.clear = flags.clear;
  worker.delay_us = flags.delay_us;
  worker.pace = flags.pace;
  worker.host_id = host_id();
}

}  // namespace conclave::apps
