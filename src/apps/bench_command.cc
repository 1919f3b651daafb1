// conclave bench: speed of prefill and decode beside what this machine's memory gives.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "apps/bench_measure.h"
#include "apps/inspect_report.h"
#include "apps/loaded_model.h"
#include "apps/program.h"
#include "formats/formats.h"

namespace conclave::apps {
namespace {

struct BenchOptions {
  ModelOptions model;
  std::string prefill = "64,512";
  std::size_t decode = 24;
  std::size_t runs = 3;
  std::size_t probe_mb = 1024;
  bool json = false;
};

struct Probe {
  double plain_gb = 0.0;
  double streams_gb = 0.0;
};

Probe probe(std::size_t threads, std::size_t size_bytes) {
  return {.plain_gb = backend::probe_read_bandwidth(threads, 1, size_bytes) / 1e9,
          .streams_gb = backend::probe_read_bandwidth(threads, 4, size_bytes) / 1e9};
}

// One row of the table: `runs` times probe, run, probe.
class Bench {
 public:
  Bench(Program& program, const BenchOptions& options, std::size_t threads)
      : program_(program), options_(options), threads_(threads) {}

  Result<BenchRow> measure(std::string name, std::size_t tokens,
                           const std::function<Result<double>(std::uint64_t seed)>& time) {
    BenchRow row;
    row.name = std::move(name);
    row.tokens = tokens;
    // Prefill and decode warm up alike: the first pass faults pages in and is not counted.
    TRY(time(0));
    for (std::size_t run = 0; run < options_.runs; ++run) {
      ProgressLine line(program_.clock, program_.terminal, row.name, /*quiet=*/false);
      line.update_items(run, options_.runs, "runs");
      const Probe before = probe(threads_, options_.probe_mb << 20);
      const double elapsed = TRY(time(run + 1));
      const Probe after = probe(threads_, options_.probe_mb << 20);
      row.tokens_per_second.push_back(static_cast<double>(tokens) / elapsed);
      row.plain_gb.push_back(0.5 * (before.plain_gb + after.plain_gb));
      row.streams_gb.push_back(0.5 * (before.streams_gb + after.streams_gb));
    }
    return row;
  }

 private:
  Program& program_;
  const BenchOptions& options_;
  std::size_t threads_;
};

Result<int> run_bench(Program& program, const BenchOptions& options) {
  const Result<std::vector<std::size_t>> prefills = parse_counts(options.prefill, "--prefill");
  if (!prefills) return usage_error(program, prefills.error());
  const std::size_t longest = *std::max_element(prefills->begin(), prefills->end());
  LoadPlan plan;
  plan.tokens = std::max(longest + 1, options.decode + 2);
  const LoadedModel loaded = TRY(load_model(program, options.model, plan));
  if (plan.tokens > loaded.context) {
    return usage_error(
        program, invalid_input(fmt::format("the bench needs {} tokens of context, the model has "
                                           "{}: give smaller --prefill and --decode",
                                           plan.tokens, loaded.context)));
  }
  const std::size_t threads = options.model.threads != 0
                                  ? options.model.threads
                                  : std::max(1u, std::thread::hardware_concurrency());
  BenchReport report;
  report.model = formats::model_name(loaded.dir);
  report.backend = loaded.backend->describe();
  report.weights = options.model.weights;
  report.threads = threads;
  report.runs = options.runs;
  report.bytes_per_token = total_of(model::inspect(*loaded.source, loaded.weights)).read_per_token;
  report.load_seconds = loaded.load_seconds;

  Bench bench(program, options, threads);
  backend::Backend& backend = *loaded.backend;
  for (const std::size_t tokens : *prefills) {
    report.rows.push_back(
        TRY(bench.measure(fmt::format("prefill {}", tokens), tokens, [&](std::uint64_t seed) {
          return time_prefill(program.clock, backend, tokens, seed);
        })));
  }
  report.rows.push_back(TRY(bench.measure("decode", options.decode, [&](std::uint64_t seed) {
    return time_decode(program.clock, backend, options.decode, seed);
  })));
  report.rows.back().bytes_per_token = report.bytes_per_token;
  TRY(program.output.write(options.json ? to_json(report).dump(2) + "\n" : to_text(report)));
  return kExitOk;
}

}  // namespace

void add_bench_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand(
      "bench", "Measure prefill and decode beside this machine's memory bandwidth");
  auto options = std::make_shared<BenchOptions>();  // shared: CLI11 copies the callback
  add_model_options(*command, program.settings, ModelArgument::kOptional, options->model);
  command->add_option("--prefill", options->prefill, "prompt lengths, joined by commas")
      ->capture_default_str();
  command->add_option("--decode", options->decode, "tokens to generate, from an empty context")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command->add_option("--runs", options->runs, "runs of each, with a read probe before and after")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--probe-mb", options->probe_mb, "MiB that a read probe reads")
      ->check(CLI::Range(16, 1 << 16))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_bench(program, *options); };
  });
}

}  // namespace conclave::apps
