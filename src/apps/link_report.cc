#include "apps/link_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/terminal.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kCellMin = 20;

std::string text_of(const Json& json, const char* key) {
  return without_controls(json.value(key, ""));
}

std::string cell(const Json& link) {
  if (link.contains("error") && !link.contains("rtt_us")) return "unreachable";
  const double us = link.value("rtt_us", 0.0);
  std::string text =
      us < 1000.0 ? fmt::format("{:.0f} us", us) : fmt::format("{:.1f} ms", us / 1e3);
  const double bandwidth = link.value("bandwidth_gb_s", 0.0);
  if (link.contains("error") || bandwidth <= 0.0) return text + ", broken";
  return text + fmt::format(", {:.{}f} GB/s", bandwidth, bandwidth < 0.1 ? 3 : 2);
}

std::string machine_line(const Json& machine) {
  std::string text = fmt::format("  {:<20} {:<24} {:<10} {}", text_of(machine, "name"),
                                 text_of(machine, "address"), text_of(machine, "build"),
                                 text_of(machine, "state"));
  if (machine.contains("memory_bytes")) {
    text += fmt::format(", {} of {} free", human_bytes(machine.value("available_bytes", 0ull)),
                        human_bytes(machine.value("memory_bytes", 0ull)));
  }
  return text + "\n";
}

}  // namespace

std::string link_matrix(const Json& links) {
  std::vector<std::string> names;
  for (const Json& link : links) {
    for (const char* end : {"from", "to"}) {
      const std::string name = text_of(link, end);
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  if (names.empty()) return {};
  std::size_t width = kCellMin;
  for (const std::string& name : names) width = std::max(width, name.size() + 2);
  std::string text = fmt::format("  {:<{}}", "", width);
  for (const std::string& to : names) text += fmt::format("{:<{}}", to, width);
  text.erase(text.find_last_not_of(' ') + 1);
  text += '\n';
  for (const std::string& from : names) {
    std::string line = fmt::format("  {:<{}}", from, width);
    for (const std::string& to : names) {
      const auto found = std::ranges::find_if(links, [&](const Json& link) {
        return text_of(link, "from") == from && text_of(link, "to") == to;
      });
      line += fmt::format("{:<{}}",
                          found != links.end() ? cell(*found)
                          : from == to         ? ""
                                               : "-",
                          width);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string doctor_text(const Json& report) {
  std::string text = "machines\n";
  for (const Json& machine : report["machines"]) text += machine_line(machine);
  if (const std::string links = link_matrix(report["links"]); !links.empty()) {
    text +=
        "\nlinks, measured in passing: a message up and back, and what the machine on the left "
        "gets\n" +
        links;
  }
  text += '\n';
  std::size_t n_wrong = 0;
  std::size_t n_advice = 0;
  for (const Json& finding : report["findings"]) {
    const bool wrong = finding.value("kind", "") == "wrong";
    ++(wrong ? n_wrong : n_advice);
    text += fmt::format("{}  {}\n        -> {}\n", wrong ? "WRONG " : "advice",
                        text_of(finding, "text"), text_of(finding, "advice"));
  }
  text += n_wrong > 0 ? fmt::format("{} wrong", n_wrong) : "nothing is wrong";
  if (n_advice > 0) text += fmt::format(", {} advice", n_advice);
  return text + "\n";
}

}  // namespace conclave::apps
