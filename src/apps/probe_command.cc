// conclave probe: what this machine does, as an entry of the planner's catalogue.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "apps/options.h"
#include "apps/pool_flags.h"
#include "apps/probe_measure.h"
#include "apps/program.h"
#include "apps/terminal.h"
#include "kernels/kernels.h"

namespace conclave::apps {
namespace {

constexpr const char* kFooter =
    "These flags come from the command line alone.\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage.";
constexpr std::size_t kMemoryMin = std::size_t{512} << 20;
constexpr std::size_t kMemoryMax = std::size_t{4} << 30;

struct ProbeOptions {
  std::string name;     // empty: the host's
  std::string threads;  // empty: 1 and one per core
  std::string isa;
  std::string out;
  double pace = 1.0;          // tests: as `conclave node --pace`
  std::size_t memory_mb = 0;  // 0: four times the last-level cache
  bool json = false;
};

// "1t", "2t": the entry without such an ending is the one with all cores.
std::string entry_name(const std::string& name, std::size_t threads, std::size_t cores) {
  return threads == cores ? name : fmt::format("{}-{}t", name, threads);
}

nlohmann::ordered_json to_json(const plan::Machine& machine, std::size_t threads) {
  nlohmann::ordered_json json;
  json["name"] = machine.name;
  json["threads"] = threads;
  json["memory_bytes"] = machine.memory_bytes;
  json["usable_bytes"] = machine.usable_bytes;
  json["cache_bytes"] = machine.cache_bytes;
  json["read_bytes_per_second"] = machine.peak_bandwidth;
  for (std::size_t i = 0; i < plan::kFormats; ++i) {
    const std::string format{plan::name_of(static_cast<plan::Format>(i))};
    json["gemv_bytes_per_second"][format] = machine.gemv_bandwidth[i];
    json["cached_gemv_bytes_per_second"][format] = machine.cache_gemv_bandwidth[i];
  }
  json["prefill_flop_per_second"] = machine.prefill_flops;
  json["dispatch_seconds"] = machine.dispatch_seconds;
  json["expert_seconds"] = machine.expert_seconds;
  json["step_seconds"] = machine.step_seconds;
  json["unsteadiness"] = machine.unsteadiness;
  return json;
}

Result<std::vector<std::size_t>> thread_counts(const std::string& wanted) {
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  if (!wanted.empty()) {
    std::vector<std::size_t> counts = TRY(parse_counts(wanted, "--threads"));
    // More threads than cores wait for each other: no speed of this machine.
    const std::size_t most = *std::max_element(counts.begin(), counts.end());
    if (most <= cores) return counts;
    return invalid_input(fmt::format("--threads {}: this machine runs {} at a time", most, cores));
  }
  return cores == 1 ? std::vector<std::size_t>{1} : std::vector<std::size_t>{1, cores};
}

Result<std::string> probe_all(Program& program, const ProbeOptions& options,
                              const std::vector<std::size_t>& counts) {
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  // With twice the cache a fifth of the reads are still served from it.
  const std::size_t memory_bytes =
      options.memory_mb != 0 ? options.memory_mb << 20
                             : std::clamp(4 * last_level_cache_bytes(), kMemoryMin, kMemoryMax);
  const std::string name = options.name.empty() ? host_name() : options.name;
  std::error_code error;
  const std::filesystem::path temporary = std::filesystem::temp_directory_path(error);
  if (error) return unavailable("no folder for temporary files: set TMPDIR");

  std::string toml = fmt::format(
      "# Written by conclave probe: speeds of this machine's own kernels, weights in memory and in "
      "the cache.\n# Prices and watts are not measured: add price_usd, idle_w and load_w.\n");
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const std::size_t threads : counts) {
    ProgressLine line(program.clock, program.terminal, fmt::format("probe, {} threads", threads),
                      /*quiet=*/false);
    const plan::Machine machine = TRY(probe_machine(program.clock,
                                                    {.name = entry_name(name, threads, cores),
                                                     .isa = options.isa,
                                                     .threads = threads,
                                                     .busy = options.pace,
                                                     .memory_bytes = memory_bytes},
                                                    temporary));
    toml += "\n" + plan::to_toml(machine);
    json.push_back(to_json(machine, threads));
  }
  return options.json ? json.dump(2) + "\n" : toml;
}

Result<int> run_probe(Program& program, const ProbeOptions& options) {
  if (const auto isa = kernels::choose_isa(options.isa); !isa) {
    return usage_error(program, isa.error());
  }
  const auto counts = thread_counts(options.threads);
  if (!counts) return usage_error(program, counts.error());
  const std::string text = TRY(probe_all(program, options, *counts));
  if (options.out.empty()) {
    TRY(program.output.write(text));
    return kExitOk;
  }
  std::ofstream file(options.out, std::ios::binary);
  file << text;
  if (!file.flush()) return unavailable(fmt::format("{}: cannot write it", options.out));
  TRY(program.output.write(fmt::format("{}: written; conclave plan --catalogue {} reads it\n",
                                       options.out, options.out)));
  return kExitOk;
}

}  // namespace

void add_probe_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand(
      "probe", "Measure this machine's kernels and memory, as an entry for conclave plan");
  command->footer(kFooter);
  auto options = std::make_shared<ProbeOptions>();  // shared: CLI11 copies the callback
  command->add_option("--name", options->name, "name of the entry (default: the host's)");
  command->add_option("--threads", options->threads,
                      "thread counts, joined by commas (default: 1 and one per core)");
  command->add_option("--isa", options->isa, "instruction set (default: the fastest)");
  command->add_option("--pace", options->pace)->group("");
  command
      ->add_option("--memory-mb", options->memory_mb,
                   "MiB of weights to read (default: four times the last-level cache)")
      ->check(CLI::Range(64, 1 << 16));
  command->add_option("--out", options->out, "file to write (default: standard output)");
  command->add_flag("--json", options->json, "print JSON in place of TOML");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_probe(program, *options); };
  });
}

}  // namespace conclave::apps
