#include "apps/plan_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>
#include <system_error>
#include <utility>

namespace conclave::apps {
namespace {

constexpr std::size_t kSteppedMax = 16;  // longer ranges double

constexpr std::array<std::pair<std::string_view, SweepKey>, 3> kSweepKeys = {{
    {"nodes", SweepKey::kNodes},
    {"batch", SweepKey::kBatch},
    {"context", SweepKey::kContext},
}};

constexpr std::array<std::pair<std::string_view, ChangeKey>, 10> kChangeKeys = {{
    {"link", ChangeKey::kLink},
    {"software", ChangeKey::kSoftware},
    {"quant", ChangeKey::kQuant},
    {"strategy", ChangeKey::kStrategy},
    {"nodes", ChangeKey::kNodes},
    {"batch", ChangeKey::kBatch},
    {"context", ChangeKey::kContext},
    {"bandwidth", ChangeKey::kBandwidth},
    {"link-bandwidth", ChangeKey::kLinkBandwidth},
    {"latency", ChangeKey::kLatency},
}};

template <class Table>
std::string names_of(const Table& table) {
  std::vector<std::string_view> names;
  for (const auto& entry : table) names.push_back(entry.first);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

// A whole number from 1, and nothing behind it. One that is too large to hold is the largest that
// can be held, so that the caller's limit is what the message names.
std::optional<std::size_t> count_of(std::string_view text) {
  std::size_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::numeric_limits<std::size_t>::max();
  if (count == 0) return std::nullopt;
  return count;
}

// A finite number and what stands behind it: "12us" -> 12, "us".
std::optional<std::pair<double, std::string_view>> number_and_unit(std::string_view text) {
  double number = 0.0;
  const auto [next, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !std::isfinite(number)) return std::nullopt;
  return std::pair(number, text.substr(static_cast<std::size_t>(next - text.data())));
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> pieces;
  while (true) {
    const std::size_t at = text.find(separator);
    pieces.push_back(trimmed(text.substr(0, at)));
    if (at == std::string_view::npos) return pieces;
    text.remove_prefix(at + separator.size());
  }
}

std::vector<std::size_t> range_of(std::size_t first, std::size_t last) {
  std::vector<std::size_t> values;
  const bool doubles = last - first >= kSteppedMax;
  for (std::size_t value = first; value < last; value = doubles ? value * 2 : value + 1) {
    values.push_back(value);
  }
  values.push_back(last);
  return values;
}

// The numbers as they stand: of a range its two ends.
std::optional<std::vector<std::size_t>> numbers_of(std::string_view text, bool range) {
  std::vector<std::size_t> numbers;
  for (const std::string_view piece : split(text, range ? ".." : ",")) {
    const auto number = count_of(piece);
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  if (range && (numbers.size() != 2 || numbers[0] > numbers[1])) return std::nullopt;
  return numbers;
}

std::size_t most_of(SweepKey key) {
  switch (key) {
    case SweepKey::kNodes:
      return plan::kMachinesMax;
    case SweepKey::kBatch:
      return kBatchMax;
    case SweepKey::kContext:
      return kContextMax;
  }
  return 0;
}

struct Unit {
  std::string_view name;
  double scale;
};
constexpr std::array<Unit, 3> kTimeUnits = {{{"us", 1e-6}, {"ms", 1e-3}, {"s", 1.0}}};
constexpr std::array<Unit, 3> kRateUnits = {{{"GB/s", 1e9}, {"MB/s", 1e6}, {"TB/s", 1e12}}};

// "+20%" or "900GB/s". A rate may not become zero, a time may.
std::optional<Amount> amount_of(std::string_view text, std::span<const Unit> units,
                                bool zero_is_legal) {
  const bool plus = text.starts_with('+');  // std::from_chars refuses the sign
  const auto parsed = number_and_unit(plus ? text.substr(1) : text);
  if (!parsed || (plus && parsed->first < 0.0)) return std::nullopt;
  const auto& [number, unit] = *parsed;
  const auto legal = [zero_is_legal](double v) { return zero_is_legal ? v >= 0.0 : v > 0.0; };
  Amount amount;
  if (unit == "%") {
    amount.factor = 1.0 + number / 100.0;
    return legal(amount.factor) ? std::optional(amount) : std::nullopt;
  }
  for (const Unit& known : units) {
    if (unit != known.name || plus || !legal(number)) continue;
    amount.value = number * known.scale;
    return amount;
  }
  return std::nullopt;
}

Error bad_change(std::string_view text, std::string_view want) {
  return invalid_input(fmt::format("--what-if \"{}\": give {}", text, want));
}

Result<void> read_count(Change& change, SweepKey key) {
  const auto count = count_of(change.value);
  if (!count) return bad_change(change.text, "a whole number from 1");
  const std::size_t most = most_of(key);
  if (*count > most) return bad_change(change.text, fmt::format("at most {}", most));
  change.count = *count;
  return {};
}

// Fills `change.count` or `change.amount`.
Result<void> read_value(Change& change) {
  const bool latency = change.key == ChangeKey::kLatency;
  switch (change.key) {
    case ChangeKey::kNodes:
      return read_count(change, SweepKey::kNodes);
    case ChangeKey::kBatch:
      return read_count(change, SweepKey::kBatch);
    case ChangeKey::kContext:
      return read_count(change, SweepKey::kContext);
    case ChangeKey::kBandwidth:
    case ChangeKey::kLinkBandwidth:
    case ChangeKey::kLatency: {
      const auto amount = latency ? amount_of(change.value, kTimeUnits, /*zero_is_legal=*/true)
                                  : amount_of(change.value, kRateUnits, /*zero_is_legal=*/false);
      if (!amount) {
        return bad_change(change.text,
                          latency ? "a time as in 12us, or -50%" : "a rate as in 900GB/s, or +20%");
      }
      change.amount = *amount;
      return {};
    }
    case ChangeKey::kLink:
    case ChangeKey::kSoftware:
    case ChangeKey::kQuant:
    case ChangeKey::kStrategy:
      break;
  }
  return {};
}

}  // namespace

Result<std::vector<MachineCount>> parse_machine_list(std::string_view text) {
  std::vector<MachineCount> machines;
  std::size_t total = 0;
  for (const std::string_view piece : split(text, ",")) {
    const std::size_t star = piece.find('*');
    const bool counted = star != std::string_view::npos;
    const auto count =
        counted ? count_of(trimmed(piece.substr(star + 1))) : std::optional<std::size_t>(1);
    const std::string_view name = trimmed(piece.substr(0, star));
    if (name.empty() || !count) {
      return invalid_input(
          fmt::format("--machines \"{}\": give names joined by commas, each with *COUNT or "
                      "without, as in m3-ultra-512*4,m4-max-128",
                      text));
    }
    if (*count > plan::kMachinesMax - total) {
      return invalid_input(
          fmt::format("--machines \"{}\": at most {} machines", text, plan::kMachinesMax));
    }
    total += *count;
    machines.push_back({std::string(name), *count});
  }
  return machines;
}

Result<plan::Topology> parse_topology(std::string_view text) {
  for (const auto topology :
       {plan::Topology::kSwitch, plan::Topology::kMesh, plan::Topology::kRing}) {
    if (text == topology_name(topology)) return topology;
  }
  return invalid_input(fmt::format("topology \"{}\": give switch, mesh or ring", text));
}

std::string_view topology_name(plan::Topology topology) {
  switch (topology) {
    case plan::Topology::kSwitch:
      return "switch";
    case plan::Topology::kMesh:
      return "mesh";
    case plan::Topology::kRing:
      return "ring";
  }
  return "unknown";
}

Result<plan::Speculation> parse_speculation(std::string_view text) {
  const std::size_t colon = text.find(':');
  const auto draft = count_of(text.substr(0, colon));
  const auto accepted =
      colon == std::string_view::npos ? std::nullopt : number_and_unit(text.substr(colon + 1));
  const bool valid = draft && *draft <= 64 && accepted && accepted->second.empty() &&
                     accepted->first >= 1.0 && accepted->first <= static_cast<double>(*draft + 1);
  if (!valid) {
    return invalid_input(
        fmt::format("--spec \"{}\": give K:ACCEPTED, draft tokens (1 to 64) and tokens a step on "
                    "average (1 to K+1), as in 3:2.35",
                    text));
  }
  plan::Speculation speculation;
  speculation.draft_tokens = *draft;
  speculation.accepted = accepted->first;
  return speculation;
}

std::string_view name_of(SweepKey key) {
  for (const auto& [name, known] : kSweepKeys) {
    if (known == key) return name;
  }
  return "unknown";
}

Result<Sweep> parse_sweep(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  const auto* const key = std::find_if(kSweepKeys.begin(), kSweepKeys.end(),
                                       [name](const auto& entry) { return entry.first == name; });
  const std::string_view list =
      equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
  const bool range = list.find("..") != std::string_view::npos;
  auto values = numbers_of(list, range);
  if (key == kSweepKeys.end() || !values) {
    return invalid_input(
        fmt::format("--sweep \"{}\": give one of {}, and its values, as in nodes=1..8 or "
                    "batch=1,8,32",
                    text, names_of(kSweepKeys)));
  }
  std::sort(values->begin(), values->end());
  const std::size_t most = most_of(key->second);
  if (values->back() > most) {
    return invalid_input(fmt::format("--sweep \"{}\": {} of at most {}", text, name, most));
  }
  values->erase(std::unique(values->begin(), values->end()), values->end());
  if (range) values = range_of(values->front(), values->back());
  if (values->size() > kSweepPointsMax) {
    return invalid_input(fmt::format("--sweep \"{}\": at most {} values", text, kSweepPointsMax));
  }
  return Sweep{.key = key->second, .values = std::move(*values)};
}

Result<Change> parse_change(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  const auto* const key = std::find_if(kChangeKeys.begin(), kChangeKeys.end(),
                                       [name](const auto& entry) { return entry.first == name; });
  if (equals == std::string_view::npos || key == kChangeKeys.end() || equals + 1 == text.size()) {
    return bad_change(text, fmt::format("KEY=VALUE, the key one of {}", names_of(kChangeKeys)));
  }
  Change change;
  change.key = key->second;
  change.text = std::string(text);
  change.value = std::string(text.substr(equals + 1));
  TRY(read_value(change));
  return change;
}

std::optional<Error> contradiction(const PlanOptions& options) {
  std::vector<std::string_view> modes;
  if (options.list) modes.emplace_back("--list");
  if (options.seed_table) modes.emplace_back("--seed-table");
  if (!options.compare.empty()) modes.emplace_back("--compare");
  if (!options.sweep.empty()) modes.emplace_back("--sweep");
  if (!options.what_if.empty()) modes.emplace_back("--what-if");
  if (modes.size() > 1) {
    return invalid_input(fmt::format("{} together: give one of them", fmt::join(modes, " and ")));
  }
  const std::string_view mode = modes.empty() ? "" : modes[0];
  const bool alone = options.list || options.seed_table;
  const bool named = !options.cluster.empty() || !options.machines.empty();
  if (!options.cluster.empty() && !options.machines.empty()) {
    return invalid_input(
        fmt::format("{} and --machines: give a cluster file or a list", options.cluster));
  }
  if (named && (alone || !options.compare.empty())) {
    return invalid_input(fmt::format("{} takes no cluster besides its own", mode));
  }
  if (!named && !alone && options.compare.empty()) {
    return invalid_input(
        "name a cluster file, or --machines as in m3-ultra-512*4; conclave plan --list names all");
  }
  if (options.events && !modes.empty() && options.compare.empty()) {
    return invalid_input(fmt::format("--events with {}: it belongs to one report", mode));
  }
  const bool drawn = modes.empty() || !options.sweep.empty();
  if (!options.svg.empty() && !drawn) {
    return invalid_input(fmt::format("--svg with {}: it draws one cluster or a sweep", mode));
  }
  return std::nullopt;
}

}  // namespace conclave::apps
