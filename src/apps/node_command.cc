// conclave node: lends this machine to a pool.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/logging.h"
#include "apps/options.h"
#include "apps/pool_flags.h"
#include "apps/program.h"
#include "apps/terminal.h"
#include "cluster/cluster.h"

namespace conclave::apps {
namespace {

struct NodeFlags {
  PoolFlags pool;
  std::string join;
  std::string peer;
  std::vector<std::string> models;
  std::size_t threads = 0;
  std::string isa;
  std::uint16_t data_port = 0;
  std::uint16_t bulk_port = 0;
  bool cache = false;
  std::string log_level = "warning";
};

Result<int> run(Program& program, const NodeFlags& flags) {
  log_to_stderr(flags.log_level);
  cluster::NodeAgentOptions options;
  options.state = cluster::state_places_from_environment(flags.pool.state);
  options.name = flags.pool.name.empty() ? host_name() : flags.pool.name;
  options.join_code = flags.join;
  options.peer = flags.peer;
  for (const std::string& dir : flags.models) options.worker.model_dirs.emplace_back(dir);
  options.worker.threads = flags.threads;
  options.worker.isa = flags.isa;
  options.worker.listen_port = flags.data_port;
  options.worker.cache = flags.cache;
  options.bulk_port = flags.bulk_port;
  apply(flags.pool, options.worker);
  options.host_id = options.worker.host_id;
  options.on_event = [&program](const std::string& text) {
    static_cast<void>(program.output.write(without_controls(text) + "\n"));
  };
  options.machine = TRY(this_machine(program, flags.pool, flags.isa, flags.threads));
  return cluster::run_node(options, program.clock);
}

}  // namespace

void add_node_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand("node", "Lend this machine to a pool");
  auto flags = std::make_shared<NodeFlags>();  // shared: CLI11 copies the callback
  command->add_option("--join", flags->join, "the code that `conclave pair` printed on the head");
  command->add_option("--peer", flags->peer, "host:port of the head, where it is not found");
  command->add_option("--models", flags->models,
                      "folders with checkpoints that this machine has; others are sent to it");
  command->add_option("--threads", flags->threads, "0: one per core")->check(not_negative);
  command->add_option("--isa", flags->isa, "instruction set (default: the fastest)");
  command->add_option("--data-port", flags->data_port, "for other ranks; 0: any free one")
      ->check(CLI::Range(0, 65535));
  command
      ->add_option("--bulk-port", flags->bulk_port,
                   "where others measure the link to this machine and get the weights of its "
                   "--models; 0: any free one")
      ->check(CLI::Range(0, 65535));
  command->add_flag("--cache", flags->cache,
                    "keep the weights that others send on this machine's disk, so that a restart "
                    "does not fetch them again");
  command->add_option("--log-level", flags->log_level, "on stderr")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  add_pool_flags(*command, flags->pool);
  command->footer(
      "These flags come from the command line alone.\n"
      "Exit codes: 0 stopped, 1 failed, 2 wrong usage.");
  command->callback(
      [&program, flags] { program.action = [&program, flags] { return run(program, *flags); }; });
}

}  // namespace conclave::apps
