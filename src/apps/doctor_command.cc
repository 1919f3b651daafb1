// conclave doctor: what is wrong with the pool whose head runs here, or with this machine.
#include <fmt/format.h>
#include <poll.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/link_report.h"
#include "apps/pool_flags.h"
#include "apps/program.h"
#include "apps/terminal.h"
#include "cluster/cluster.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kPatience = std::chrono::seconds(5);  // for one answer
constexpr int kAskAgainMs = 100;
constexpr std::uint16_t kPoolPort = 7333;
constexpr const char* kFooter =
    "Run it on the head while the pool runs: every machine calls every other, in passing, so "
    "other\n"
    "traffic counts against the links. Where no head runs, it looks at this machine alone. It "
    "changes\nno setting.\n"
    "These flags come from the command line alone.\n"
    "Exit codes: 0 nothing is wrong (advice may be given), 1 something is, 2 wrong usage.";

struct DoctorFlags {
  std::string state;
  bool json = false;
};

Result<Json> ask(const std::filesystem::path& dir, const Json& request) {
  const std::string text = TRY(cluster::admin_request(dir, request.dump(), kPatience));
  Json answer = Json::parse(text, nullptr, false);
  if (!answer.is_object()) return corrupt("the head's answer is no JSON");
  if (answer.contains("error")) return unavailable(answer.value("error", "refused"));
  return answer;
}

// Each measurement has its own time limit at the head, so this ends.
Result<Json> check_pool(Program& program, const std::filesystem::path& dir, bool quiet) {
  ProgressLine progress(program.clock, program.terminal, "checking", quiet);
  Json answer = TRY(ask(dir, {{"do", "doctor"}}));
  while (answer.contains("left")) {
    const std::uint64_t total = answer.value("total", std::uint64_t{0});
    const std::uint64_t left = std::min(total, answer.value("left", std::uint64_t{0}));
    progress.update_items(total - left, total, "checks");
    ::poll(nullptr, 0, kAskAgainMs);
    answer = TRY(ask(dir, {{"do", "doctor"}, {"round", answer.value("round", std::uint64_t{0})}}));
  }
  progress.clear();
  return answer;
}

Result<int> run_doctor(Program& program, const DoctorFlags& flags) {
  const std::filesystem::path dir =
      TRY(cluster::find_state_dir(cluster::state_places_from_environment(flags.state)));
  Result<Json> report = check_pool(program, dir, flags.json);
  const bool alone = !report && report.error().code == ErrorCode::kNotFound;
  if (!report && !alone) return report.error();
  const Json shown =
      alone ? Json::parse(cluster::check_this_machine(dir, host_name(), kPoolPort, program.clock))
            : std::move(report).value();
  if (flags.json) {
    TRY(program.output.write(shown.dump(2) + "\n"));
  } else {
    TRY(program.output.write(doctor_text(shown)));
    if (alone) {
      TRY(program.output.write(
          "No head runs here: links are checked by `conclave doctor` on the head.\n"));
    }
  }
  return shown.value("wrong", false) ? kExitFailed : kExitOk;
}

}  // namespace

void add_doctor_command(CLI::App& root, Program& program) {
  CLI::App* command =
      root.add_subcommand("doctor", "Check a pool's machines and links, and say what to do");
  auto flags = std::make_shared<DoctorFlags>();  // shared: CLI11 copies the callback
  command->add_option("--state", flags->state,
                      "the head's state folder (default: $CONCLAVE_STATE, else "
                      "~/.local/state/conclave)");
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(kFooter);
  command->callback([&program, flags] {
    program.action = [&program, flags] { return run_doctor(program, *flags); };
  });
}

}  // namespace conclave::apps
