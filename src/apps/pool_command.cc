// conclave pair, conclave pool: talk to the head that runs on this machine.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/link_report.h"
#include "apps/program.h"
#include "apps/terminal.h"
#include "cluster/cluster.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kPatience = std::chrono::seconds(5);
constexpr const char* kFooter =
    "These flags come from the command line alone.\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage.";

struct PoolAsk {
  std::string state;
  std::string node;
  bool json = false;
};

Result<Json> ask(const PoolAsk& options, const Json& request) {
  const std::filesystem::path dir =
      TRY(cluster::find_state_dir(cluster::state_places_from_environment(options.state)));
  const std::string text = TRY(cluster::admin_request(dir, request.dump(), kPatience));
  Json answer = Json::parse(text, nullptr, false);
  if (!answer.is_object()) return corrupt("the head's answer is no JSON");
  if (answer.contains("error")) return unavailable(answer.value("error", "refused"));
  return answer;
}

Result<int> run_pair(Program& program, const PoolAsk& options) {
  const Json answer = TRY(ask(options, {{"do", "pair"}}));
  const std::string code = answer.value("code", "");
  if (options.json) {
    TRY(program.output.write(answer.dump() + "\n"));
    return kExitOk;
  }
  say("On the other machine, within ten minutes:\n");
  TRY(program.output.write(fmt::format("conclave node --join {}\n", code)));
  return kExitOk;
}

std::string node_line(const Json& node) {
  return fmt::format("  {:<20} {:<24} {:>5.1f} %  {:>10} of {:<10} {:>7.1f} GB/s{}\n",
                     node.value("name", "") + (node.value("head", false) ? " (head)" : ""),
                     node.value("state", ""), node.value("share_percent", 0.0),
                     human_bytes(node.value("weight_bytes", std::uint64_t{0})),
                     human_bytes(node.value("usable_bytes", std::uint64_t{0})),
                     node.value("bandwidth_gb_s", 0.0),
                     node.value("files", false) ? "  has the files" : "");
}

std::string pool_text(const Json& pool) {
  std::string text = fmt::format("{}: {}\n", pool.value("phase", ""), pool.value("text", ""));
  if (pool.contains("strategy")) {
    const bool rebuilding = pool.value("rebuilding", false);
    text += fmt::format("strategy {}, epoch {}, survives {}{}\n", pool.value("strategy", ""),
                        pool.value("epoch", 0), pool.value("losses_survived", 0),
                        rebuilding ? " (rebuilding)" : "");
    if (const auto copies = pool.value("expert_replicas", std::uint64_t{0}); copies > 0) {
      text += fmt::format("{} copies of experts that are chosen often\n", copies);
    }
  }
  text +=
      "\n  machine              state                      share      weights    memory       "
      " bandwidth\n";
  for (const Json& node : pool["nodes"]) text += node_line(node);
  if (const std::string links = link_matrix(pool["links"]); !links.empty()) {
    text += "\nlinks: a message up and back, and what the machine on the left gets\n" + links;
  }
  if (pool.contains("warning")) text += "\nwarning: " + pool.value("warning", "") + "\n";
  const Json& history = pool["history"];
  if (!history.empty()) text += "\nlately\n";
  constexpr std::size_t kShown = 10;
  const std::size_t begin = history.size() > kShown ? history.size() - kShown : 0;
  for (std::size_t i = begin; i < history.size(); ++i) {
    text += fmt::format("  {:>8.1f} s ago  {}\n", history[i].value("seconds_ago", 0.0),
                        without_controls(history[i].value("text", "")));
  }
  return text;
}

Result<int> run_pool(Program& program, const PoolAsk& options) {
  const Json pool = TRY(ask(options, {{"do", "pool"}}));
  TRY(program.output.write(options.json ? pool.dump(2) + "\n" : pool_text(pool)));
  return kExitOk;
}

Result<int> run_change(Program& program, const PoolAsk& options, const std::string& what) {
  const Json answer = TRY(ask(options, {{"do", what}, {"node", options.node}}));
  if (options.json) {
    TRY(program.output.write(answer.dump() + "\n"));
    return kExitOk;
  }
  TRY(program.output.write(
      what == "drain"
          ? fmt::format("{} gives its work to the others: watch `conclave "
                        "pool`, then stop it\n",
                        options.node)
          : fmt::format("{} is removed; it has to be paired to come back\n", options.node)));
  return kExitOk;
}

CLI::App* add_ask(CLI::App& parent, const std::string& name, const std::string& help,
                  const std::shared_ptr<PoolAsk>& options) {
  CLI::App* command = parent.add_subcommand(name, help);
  command->add_option("--state", options->state,
                      "the head's state folder (default: $CONCLAVE_STATE, else "
                      "~/.local/state/conclave)");
  command->add_flag("--json", options->json, "print JSON");
  command->footer(kFooter);
  return command;
}

}  // namespace

void add_pool_commands(CLI::App& root, Program& program) {
  auto options = std::make_shared<PoolAsk>();  // shared: CLI11 copies the callbacks
  add_ask(root, "pair", "Print a line that lets another machine join this head", options)
      ->callback([&program, options] {
        program.action = [&program, options] { return run_pair(program, *options); };
      });
  CLI::App* pool = add_ask(root, "pool", "Show the machines of this head's pool", options);
  pool->require_subcommand(0, 1);
  for (const char* word : {"drain", "remove"}) {
    const std::string what = word;
    CLI::App* change =
        add_ask(*pool, what,
                what == "drain" ? "Give a machine's work to the others, to stop it afterwards"
                                : "Forget a machine: its connections end now",
                options);
    change->add_option("NODE", options->node, "its name in `conclave pool`")->required();
    change->callback([&program, options, what] {
      program.action = [&program, options, what] { return run_change(program, *options, what); };
    });
  }
  pool->callback([&program, options, pool] {
    if (!pool->get_subcommands().empty()) return;
    program.action = [&program, options] { return run_pool(program, *options); };
  });
}

}  // namespace conclave::apps
