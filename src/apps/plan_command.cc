// conclave plan: what a cluster will do before it is bought.
#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "apps/options.h"
#include "apps/plan_json.h"
#include "apps/plan_options.h"
#include "apps/plan_report.h"
#include "apps/plan_seed_table.h"
#include "apps/plan_svg.h"
#include "apps/plan_tables.h"
#include "apps/program.h"

namespace conclave::apps {
namespace {

constexpr const char* kFooter =
    "Without --link machines have 10 Gb/s Ethernet, without a model it is kimi-k2-thinking, "
    "without\n"
    "--software conclave; the report says what it assumed. A cluster file must say its model.\n"
    "Of these flags only --weights may come from the environment or the settings file.\n"
    "Exit codes: 0 the model fits, 1 it does not (the report says what is missing), 2 wrong usage.";

// What one run works on.
class Planner {
 public:
  Planner(Program& program, const PlanOptions& options, plan::Catalogue catalogue)
      : program_(program), options_(options), catalogue_(std::move(catalogue)) {}

  Result<int> run() {
    if (options_.list) {
      return print(list_text(catalogue_, columns()), to_json(catalogue_), /*fits=*/true);
    }
    if (options_.seed_table) return seed_table();
    if (!options_.compare.empty()) return compare();
    const Subject subject = TRY(make_subject(options_, catalogue_, options_.cluster));
    if (!options_.sweep.empty()) return sweep(subject);
    if (!options_.what_if.empty()) return what_if(subject);
    return report(subject);
  }

 private:
  // Standard output that cannot be written is no wrong usage.
  Result<int> print(const std::string& text, const nlohmann::ordered_json& json, bool fits) {
    const std::string shown = options_.json ? json_text(json) : without_controls(text);
    if (const Result<void> written = program_.output.write(shown); !written) {
      program_.wrong_usage = false;
      return written.error();
    }
    return fits ? kExitOk : kExitFailed;
  }

  Result<void> draw(const std::string& svg) {
    std::ofstream file(options_.svg, std::ios::binary | std::ios::trunc);
    file << svg;
    file.close();
    if (!file) return unavailable(fmt::format("--svg {}: cannot write it", options_.svg));
    return {};
  }

  Result<Outcome> outcome_of(const Subject& subject) {
    if (!options_.events) return plan_subject(subject);
    plan::EventOptions events;
    events.seed = options_.seed;
    return plan_subject(subject, events);
  }

  Result<int> report(const Subject& subject) {
    const Outcome outcome = TRY(outcome_of(subject));
    if (!options_.svg.empty() && outcome.fits()) {
      TRY(draw(svg_cluster(outcome.cluster, *outcome.plan)));
    }
    return print(report_text(outcome, columns()), to_json(outcome), outcome.fits());
  }

  Result<int> seed_table() {
    const std::vector<Row> rows = TRY(seed_rows(catalogue_));
    // That one H100 does not hold the model is a finding of the table.
    return print(seed_text(rows, columns()), rows_json("seed_table", rows), /*fits=*/true);
  }

  Result<int> compare() {
    std::vector<Row> rows;
    bool fits = true;
    for (const std::string& file : options_.compare) {
      const Subject subject = TRY(make_subject(options_, catalogue_, file));
      rows.push_back({subject.cluster.name, TRY(outcome_of(subject))});
      fits = fits && rows.back().outcome.fits();
    }
    return print(compare_text(rows, columns()), rows_json("compare", rows), fits);
  }

  Result<int> sweep(const Subject& subject) {
    const Sweep sweep = TRY(parse_sweep(options_.sweep));
    std::vector<Row> rows;
    for (const std::size_t value : sweep.values) {
      const Subject point = TRY(swept(subject, sweep.key, value));
      rows.push_back({fmt::format("{}", value), TRY(plan_subject(point))});
    }
    const std::vector<SweepPoint> points = sweep_points(sweep, rows);
    if (!options_.svg.empty()) {
      const bool nodes = sweep.key == SweepKey::kNodes;
      const std::string label = nodes ? "machines" : std::string(name_of(sweep.key));
      TRY(draw(svg_sweep(subject.cluster.name, label, points)));
    }
    return print(sweep_text(sweep, rows, columns()), rows_json("sweep", rows), !points.empty());
  }

  // Each change alone and, when there are several, all of them.
  Result<int> what_if(const Subject& subject) {
    std::vector<Change> changes;  // all are read before the first plan is made
    for (const std::string& text : options_.what_if) changes.push_back(TRY(parse_change(text)));
    std::vector<Row> rows = {{"as it is", TRY(plan_subject(subject))}};
    Subject together = subject;
    for (const Change& change : changes) {
      const Subject alone = TRY(changed(subject, catalogue_, change));
      together = TRY(changed(together, catalogue_, change));
      rows.push_back({change.text, TRY(plan_subject(alone))});
    }
    if (options_.what_if.size() > 1) rows.push_back({"all of these", TRY(plan_subject(together))});
    const bool fits = rows.back().outcome.fits();
    return print(what_if_text(rows, columns()), rows_json("what_if", rows), fits);
  }

  // A file or a pipe has no width.
  std::size_t columns() const {
    return program_.terminal.stdout_is_tty ? program_.terminal.width : kTableColumns;
  }

  Program& program_;
  const PlanOptions& options_;
  plan::Catalogue catalogue_;
};

// Every error is one of the flags or of the files that they name, unless `print` says otherwise.
Result<int> run_plan(Program& program, const PlanOptions& options) {
  program.wrong_usage = true;
  if (const auto error = contradiction(options)) return *error;
  return Planner(program, options, TRY(load_catalogue(options.catalogue))).run();
}

// For CLI11's check().
std::string not_a_speed(const std::string& text) {
  double value = 0.0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool speed = error == std::errc() && stop == end && value > 0.0 && value <= 1e12;
  return speed ? "" : fmt::format("\"{}\" is no number of tokens per second", text);
}

void add_cluster_options(CLI::App& command, PlanOptions& options) {
  command.add_option("CLUSTER", options.cluster, "cluster file (TOML); docs/planner.md");
  command.add_option("--machines", options.machines,
                     "in place of a file: m3-ultra-512*4,m4-max-128");
  command.add_option("--link", options.link, "link between all machines: tb5-rdma, 10gbe, ...");
  command.add_option("--topology", options.topology, "switch, mesh or ring")
      ->check(CLI::IsMember({"switch", "mesh", "ring"}));
  command.add_option("--software", options.software, "what runs the model: conclave, ...");
  command
      .add_option("--catalogue", options.catalogue,
                  "TOML file, or a folder of them, with more names")
      ->check(not_empty);
}

void add_model_and_load(CLI::App& command, Settings& settings, PlanOptions& options) {
  command.add_option("--model", options.model,
                     "a name of the catalogue, a checkpoint folder or a GGUF file");
  command.add_option("--quant", options.quant, "quantisation of a catalogue model");
  add_weights_option(command, settings, options.weights);
  command.add_option("--strategy", options.strategy,
                     "slice, slice-ra, expert, pipeline, or auto for the fastest");
  command.add_option("--batch", options.batch, "streams decoded together")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{kBatchMax}));
  command.add_option("--context", options.context, "tokens in each stream's cache")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{kContextMax}));
  command.add_option("--prompt", options.prompt, "tokens, for the time to the first one")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{kContextMax}));
  command.add_option("--reserve", options.reserve, "tokens of KV memory, all streams together")
      ->check(CLI::Range(1, 1 << 30));
  command.add_option("--spec", options.speculation,
                     "speculation, K:ACCEPTED: draft tokens and tokens a step, as in 3:2.35");
  command.add_option("--zipf", options.zipf, "skew of expert popularity (0: uniform)")
      ->check(CLI::Range(0.0, 10.0));
  command.add_option("--measured", options.measured, "tokens per second seen, to compare with")
      ->check(not_a_speed);
}

void add_outputs(CLI::App& command, PlanOptions& options) {
  command.add_flag("--list", options.list, "machines, links, models and software by name");
  command.add_option("--compare", options.compare, "cluster files, a row each")->expected(1, 64);
  command.add_option("--sweep", options.sweep, "nodes=1..8, batch=1..64 or context=512..131072");
  command
      .add_option("--what-if", options.what_if,
                  "one thing else: link=, software=, quant=, strategy=, nodes=, batch=, context=, "
                  "bandwidth=+20%, link-bandwidth=, latency=12us; may be repeated")
      ->allow_extra_args(false);
  command.add_flag("--seed-table", options.seed_table,
                   "Kimi K2 on four well-known clusters, with other software and with conclave");
  command.add_flag("--events", options.events, "also play every layer and message, with jitter");
  command.add_option("--seed", options.seed, "of --events")->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object");
  command.add_option("--svg", options.svg, "draw the cluster, or the sweep, into this file")
      ->check(not_empty);
}

}  // namespace

void add_plan_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand(
      "plan", "Predict fit, speed, limits and cost of a cluster; place a model on it");
  command->footer(kFooter);
  auto options = std::make_shared<PlanOptions>();  // shared: CLI11 copies the callback
  add_cluster_options(*command, *options);
  add_model_and_load(*command, program.settings, *options);
  add_outputs(*command, *options);
  command->callback([&program, command, options] {
    // CONCLAVE_WEIGHTS is meant for models that run here; only the flag itself asks for int8.
    options->weights_given = command->get_option("--weights")->count() > 0;
    program.action = [&program, options] { return run_plan(program, *options); };
  });
}

}  // namespace conclave::apps
