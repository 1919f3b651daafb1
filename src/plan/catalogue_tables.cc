#include "plan/catalogue_tables.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "plan/check.h"

namespace conclave::plan {
namespace {

// A key whose value, times `unit`, is a number of T. `bounds` are in the key's own unit.
template <class T>
struct NumberKey {
  std::string_view key;
  double T::*member;
  double unit;
  NumberLimits bounds;
  bool required;
};

constexpr double kGiga = 1e9;
constexpr double kTera = 1e12;
constexpr double kMicro = 1e-6;
constexpr NumberLimits kMicroseconds{0.0, kSecondsMax / kMicro};
constexpr NumberLimits kPositiveGb{1e-6, kBytesMax / kGiga};
constexpr NumberLimits kBandwidthGb{1e-6, kRateMax / kGiga};

constexpr NumberKey<Machine> kMachineNumbers[] = {
    {"memory_gb", &Machine::memory_bytes, kGiga, kPositiveGb, true},
    {"usable_gb", &Machine::usable_bytes, kGiga, kPositiveGb, true},
    {"bandwidth_gb_s", &Machine::peak_bandwidth, kGiga, kBandwidthGb, true},
    {"efficiency", &Machine::efficiency, 1.0, {1e-3, 1.0}, false},
    {"prefill_tflops", &Machine::prefill_flops, kTera, {1e-6, kFlopsMax / kTera}, true},
    {"cache_mb", &Machine::cache_bytes, 1e6, {0.0, kBytesMax / 1e6}, false},
    {"idle_w", &Machine::idle_watts, 1.0, {0.0, kWattsMax}, false},
    {"load_w", &Machine::load_watts, 1.0, {0.0, kWattsMax}, false},
    {"price_usd", &Machine::price_usd, 1.0, {0.0, kUsdMax}, false},
    {"dispatch_us", &Machine::dispatch_seconds, kMicro, kMicroseconds, false},
    {"expert_us", &Machine::expert_seconds, kMicro, kMicroseconds, false},
    {"step_us", &Machine::step_seconds, kMicro, kMicroseconds, false},
    {"unsteadiness", &Machine::unsteadiness, 1.0, {0.0, 1.0}, false},
};
struct SpeedTable {
  std::string_view key;
  std::array<double, kFormats> Machine::*member;
};
constexpr SpeedTable kMachineSpeeds[] = {
    {"gemv_gb_s", &Machine::gemv_bandwidth},
    {"cache_gemv_gb_s", &Machine::cache_gemv_bandwidth},
};

constexpr NumberKey<Link> kLinkNumbers[] = {
    {"latency_us", &Link::latency_seconds, kMicro, kMicroseconds, true},
    {"jitter_us", &Link::jitter_seconds, kMicro, kMicroseconds, false},
    {"bandwidth_gb_s", &Link::bandwidth, kGiga, kBandwidthGb, true},
};

struct CountKey {
  std::string_view key;
  std::size_t Architecture::*member;
  bool required;
};
constexpr CountKey kModelCounts[] = {
    {"layers", &Architecture::n_layers, true},
    {"dense_layers", &Architecture::n_dense_layers, false},
    {"hidden", &Architecture::hidden_size, true},
    {"vocab", &Architecture::vocab_size, true},
    {"heads", &Architecture::n_heads, true},
    {"experts", &Architecture::n_experts, true},
    {"experts_per_token", &Architecture::experts_per_token, true},
    {"shared_experts", &Architecture::n_shared_experts, false},
    {"expert_width", &Architecture::moe_intermediate_size, true},
    {"shared_width", &Architecture::shared_intermediate_size, false},
    {"dense_width", &Architecture::intermediate_size, false},
};
constexpr CountKey kMlaCounts[] = {
    {"q_lora", &Architecture::q_lora_rank, false},
    {"kv_lora", &Architecture::kv_lora_rank, true},
    {"nope_dim", &Architecture::qk_nope_head_dim, true},
    {"rope_dim", &Architecture::qk_rope_head_dim, true},
    {"v_dim", &Architecture::v_head_dim, true},
};
constexpr CountKey kGqaCounts[] = {
    {"kv_heads", &Architecture::n_kv_heads, true},
    {"head_dim", &Architecture::head_dim, true},
    {"sliding_window", &Architecture::sliding_window, false},
    {"sliding_layers", &Architecture::n_sliding_layers, false},
};
constexpr CountLimits kSizes{0, 1'000'000'000};

using Keys = std::vector<std::string_view>;

template <class Table>
void append(Keys& keys, const Table& table) {
  for (const auto& entry : table) keys.push_back(entry.key);
}

template <class T, class Table>
Result<void> read_numbers(const TomlTable& table, const Table& keys, bool has_base, T& value) {
  for (const NumberKey<T>& key : keys) {
    if (!table.has(key.key) && (has_base || !key.required)) continue;
    value.*key.member = TRY(table.number(key.key, key.bounds)) * key.unit;
  }
  return {};
}

template <class Table>
Result<void> read_counts(const TomlTable& table, const Table& keys, Architecture& value) {
  for (const CountKey& key : keys) {
    if (!table.has(key.key) && !key.required) continue;
    value.*key.member = TRY(table.count(key.key, kSizes));
  }
  return {};
}

// Where each value is from; nested tables have nested entries. `known` are the owner's keys.
Result<void> check_source(const TomlTable& source, std::span<const std::string_view> known) {
  if (!known.empty()) TRY(source.expect_only(known));
  constexpr std::size_t kKeysMax = 64;  // looking each up is a walk over all
  if (source.node().keys.size() > kKeysMax) {
    return source.wrong_table("more than " + std::to_string(kKeysMax) + " keys");
  }
  for (const std::string& key : source.node().keys) {
    if (source.find(key)->kind == TomlNode::Kind::kTable) {
      const TomlTable inner = TRY(source.table(key));
      TRY(check_source(inner, {}));
      continue;
    }
    const std::string text = TRY(source.text_or(key, ""));
    const auto starts = [&text](std::string_view word) { return text.starts_with(word); };
    if (!starts("measured: ") && !starts("specified: ") && !starts("assumed: ")) {
      return source.wrong(key, "text that starts with 'measured: ', 'specified: ' or 'assumed: '");
    }
  }
  return {};
}

// Keys of the table and of its [source], which may also name `group`: many keys of one origin.
Result<void> check_keys(const TomlTable& table, const Keys& known, std::string_view group = {}) {
  Keys with_source = known;
  with_source.push_back("source");
  TRY(table.expect_only(with_source));
  const auto source = TRY(table.table_if_any("source"));
  Keys sources = known;
  if (!group.empty()) sources.push_back(group);
  if (source) TRY(check_source(*source, sources));
  return {};
}

Result<void> read_speeds(const TomlTable& table, std::string_view key,
                         std::array<double, kFormats>& speeds) {
  const auto inner = TRY(table.table_if_any(key));
  if (!inner) return {};
  Keys formats;
  for (std::size_t f = 0; f < kFormats; ++f) formats.push_back(name_of(static_cast<Format>(f)));
  TRY(inner->expect_only(formats));
  for (std::size_t f = 0; f < kFormats; ++f) {
    if (!inner->has(formats[f])) continue;
    speeds[f] = TRY(inner->number(formats[f], kBandwidthGb)) * kGiga;
  }
  return {};
}

Keys class_names() {
  Keys names;
  for (std::size_t d = 0; d < kDeviceClasses; ++d) {
    names.push_back(name_of(static_cast<DeviceClass>(d)));
  }
  return names;
}

// A factor per class of machine; 1 where the table is silent.
Result<void> read_factors(const TomlTable& table, std::string_view key,
                          std::array<double, kDeviceClasses>& factors) {
  const auto named = TRY(table.table_if_any(key));
  if (!named) return {};
  const Keys classes = class_names();
  TRY(named->expect_only(classes));
  for (std::size_t d = 0; d < kDeviceClasses; ++d) {
    factors[d] = TRY(named->number_or(classes[d], 1.0, {1e-3, 10.0}));
  }
  return {};
}

Result<void> read_dispatch(const TomlTable& table, Software& software) {
  const TomlTable dispatch = TRY(table.table("dispatch_us"));
  const Keys classes = class_names();
  TRY(dispatch.expect_only(classes));
  for (std::size_t d = 0; d < kDeviceClasses; ++d) {
    const TomlTable one = TRY(dispatch.table(classes[d]));
    TRY(one.expect_only({"mla", "gqa"}));
    auto& seconds = software.dispatch_seconds[d];
    seconds[static_cast<std::size_t>(AttentionKind::kMla)] =
        TRY(one.number("mla", kMicroseconds)) * kMicro;
    seconds[static_cast<std::size_t>(AttentionKind::kGqa)] =
        TRY(one.number("gqa", kMicroseconds)) * kMicro;
  }
  TRY(read_factors(table, "efficiency", software.efficiency));
  return read_factors(table, "prefill_efficiency", software.prefill_efficiency);
}

Result<void> read_exchange(const TomlTable& table, Software& software) {
  const TomlTable exchange = TRY(table.table("exchange"));
  Keys transports;
  for (std::size_t t = 0; t < kTransports; ++t) {
    transports.push_back(name_of(static_cast<Transport>(t)));
  }
  TRY(exchange.expect_only(transports));
  for (std::size_t t = 0; t < kTransports; ++t) {
    const TomlTable one = TRY(exchange.table(transports[t]));
    TRY(one.expect_only({"collective", "overhead_us", "per_peer_us"}));
    ExchangeCost& cost = software.exchange[t];
    const std::string collective = TRY(one.text_or("collective", "one-shot"));
    if (collective != "one-shot" && collective != "ring") {
      return one.wrong("collective", "one-shot or ring");
    }
    cost.collective = collective == "ring" ? Collective::kRing : Collective::kOneShot;
    cost.overhead_seconds = TRY(one.number("overhead_us", kMicroseconds)) * kMicro;
    cost.per_peer_seconds = TRY(one.number_or("per_peer_us", 0.0, kMicroseconds)) * kMicro;
  }
  return {};
}

Result<void> read_strategies(const TomlTable& table, Software& software) {
  software.strategies.fill(false);
  for (const std::string& name : TRY(table.texts("strategies"))) {
    bool known = false;
    for (std::size_t s = 0; s < kStrategies; ++s) {
      if (name != name_of(static_cast<Strategy>(s))) continue;
      software.strategies[s] = true;
      known = true;
    }
    if (!known) {
      return table.wrong_table("strategies: \"" + shown_text(name) +
                               "\", expected slice, slice-ra, expert or pipeline");
    }
  }
  if (std::ranges::find(software.strategies, true) == software.strategies.end()) {
    return table.wrong("strategies", "at least one strategy");
  }
  return {};
}

Result<PartFormat> read_format(const TomlTable& table, std::string_view key) {
  const TomlNode* node = table.find(key);
  const bool number = node != nullptr && (node->kind == TomlNode::Kind::kInteger ||
                                          node->kind == TomlNode::Kind::kReal);
  const std::string text =
      number ? number_text(TRY(table.number(key, {0.5, 64.0}))) : TRY(table.text(key));
  Result<PartFormat> format = parse_part_format(text);
  if (!format) return table.wrong_table(std::string(key) + ": " + format.error().message);
  return format;
}

// Edits that turn one name into the other.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

// Whether a person may have meant `name`: two characters in a row are the same.
bool shares_something(std::string_view wanted, std::string_view name) {
  for (std::size_t i = 0; i + 2 <= wanted.size(); ++i) {
    if (name.find(wanted.substr(i, 2)) != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace

std::string closest_names(std::string_view wanted, std::span<const std::string_view> names) {
  if (names.empty()) return "; there are none";
  constexpr std::size_t kShownMax = 3;
  constexpr std::size_t kComparedMax = 64;
  wanted = wanted.substr(0, kComparedMax);
  const bool few = names.size() <= kShownMax;
  std::vector<std::pair<std::size_t, std::string_view>> ranked;
  for (const std::string_view name : names) {
    if (!few && !shares_something(wanted, name)) continue;
    ranked.emplace_back(distance(wanted, name.substr(0, kComparedMax)), name);
  }
  if (ranked.empty()) return "; none of the " + std::to_string(names.size()) + " names is like it";
  const std::size_t n_shown = std::min(kShownMax, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(n_shown),
                    ranked.end());
  std::string text = few            ? "; known are "
                     : n_shown == 1 ? "; the closest is "
                                    : "; the closest are ";
  for (std::size_t i = 0; i < n_shown; ++i) {
    text += (i == 0 ? "" : ", ") + shown_text(ranked[i].second);
  }
  return text;
}

Result<Machine> read_machine(const TomlTable& table, const Machine* base,
                             std::span<const std::string_view> more_keys) {
  Keys keys{"name", "title", "class"};
  append(keys, kMachineNumbers);
  append(keys, kMachineSpeeds);
  keys.insert(keys.end(), more_keys.begin(), more_keys.end());
  TRY(check_keys(table, keys));
  Machine machine = base != nullptr ? *base : Machine{};
  const std::string name = TRY(table.text_or("name", base != nullptr ? base->name : ""));
  machine.title = TRY(table.text_or("title", base != nullptr ? base->title : name));
  if (base == nullptr || table.has("class")) {
    machine.device = TRY(read_enum<DeviceClass, kDeviceClasses>(table, "class"));
  }
  TRY(read_numbers(table, kMachineNumbers, base != nullptr, machine));
  for (const SpeedTable& speeds : kMachineSpeeds) {
    TRY(read_speeds(table, speeds.key, machine.*speeds.member));
  }
  if (machine.usable_bytes > machine.memory_bytes) {
    return table.wrong("usable_gb",
                       "at most memory_gb, " + number_text(machine.memory_bytes / kGiga));
  }
  machine.name = name;
  return machine;
}

Result<Link> read_link(const TomlTable& table) {
  Keys keys{"name", "title", "transport"};
  append(keys, kLinkNumbers);
  TRY(check_keys(table, keys));
  Link link;
  link.name = TRY(table.text_or("name", "own link"));
  link.title = TRY(table.text_or("title", link.name));
  link.transport = TRY(read_enum<Transport, kTransports>(table, "transport"));
  TRY(read_numbers(table, kLinkNumbers, false, link));
  return link;
}

Result<Software> read_software(const TomlTable& table) {
  TRY(check_keys(table,
                 {"name", "title", "strategies", "wire_bits", "int4_extra_bits", "splits_head",
                  "equal_shares", "uses_all", "overlaps_prefill", "backups", "whole_kv", "hop_us",
                  "dispatch_us", "prefill_efficiency", "efficiency", "exchange"}));
  Software software;
  software.name = TRY(table.text("name"));
  software.title = TRY(table.text_or("title", software.name));
  TRY(read_strategies(table, software));
  software.wire_bytes_per_element = TRY(table.number_or("wire_bits", 32.0, {0.5, 64.0})) / 8.0;
  software.int4_extra_bytes = TRY(table.number_or("int4_extra_bits", 0.0, {0.0, 64.0})) / 8.0;
  software.splits_head = TRY(table.flag_or("splits_head", software.splits_head));
  software.equal_shares = TRY(table.flag_or("equal_shares", software.equal_shares));
  software.uses_all_machines = TRY(table.flag_or("uses_all", software.uses_all_machines));
  software.backups = TRY(table.flag_or("backups", software.backups));
  software.whole_kv = TRY(table.flag_or("whole_kv", software.whole_kv));
  software.overlaps_prefill = TRY(table.flag_or("overlaps_prefill", software.overlaps_prefill));
  software.hop_seconds = TRY(table.number_or("hop_us", 0.0, kMicroseconds)) * kMicro;
  TRY(read_dispatch(table, software));
  TRY(read_exchange(table, software));
  return software;
}

Result<Quant> read_quant(const TomlTable& table, const Architecture& architecture) {
  TRY(table.expect_only({"name", "attention", "attention_small", "router", "shared", "experts",
                         "dense", "head", "embedding", "kv_bits"}));
  Quant quant;
  quant.name = TRY(table.text("name"));
  const auto read = [&table](std::string_view key,
                             const PartFormat& otherwise) -> Result<PartFormat> {
    if (!table.has(key)) return otherwise;
    return read_format(table, key);
  };
  const PartFormat attention = TRY(read_format(table, "attention"));
  quant.of(Part::kAttention) = attention;
  quant.of(Part::kAttentionSmall) = TRY(read("attention_small", attention));
  quant.of(Part::kRouter) = TRY(read_format(table, "router"));
  quant.of(Part::kRouted) = TRY(read_format(table, "experts"));
  if (architecture.n_shared_experts > 0 && !table.has("shared")) {
    return table.wrong("shared", "a format, because the model has shared experts");
  }
  const PartFormat shared = TRY(read("shared", attention));
  quant.of(Part::kShared) = shared;
  quant.of(Part::kDense) = TRY(read("dense", shared));
  const PartFormat head = TRY(read_format(table, "head"));
  quant.of(Part::kHead) = head;
  quant.of(Part::kEmbedding) = TRY(read("embedding", head));
  if (table.has("kv_bits")) {
    quant.kv_bytes_per_element = TRY(read_format(table, "kv_bits")).bytes_per_parameter;
  }
  return quant;
}

Result<CatalogueModel> read_model(const TomlTable& table) {
  const std::string attention = TRY(table.text_or("attention", ""));
  if (attention != "mla" && attention != "gqa") return table.wrong("attention", "mla or gqa");
  const bool mla = attention == "mla";
  Keys keys{"name", "title", "attention", "tied", "quant"};
  append(keys, kModelCounts);
  if (mla) append(keys, kMlaCounts);
  if (!mla) append(keys, kGqaCounts);
  TRY(check_keys(table, keys, "shape"));
  CatalogueModel model;
  Architecture& architecture = model.architecture;
  architecture.name = TRY(table.text("name"));
  model.title = TRY(table.text_or("title", architecture.name));
  architecture.attention = mla ? AttentionKind::kMla : AttentionKind::kGqa;
  TRY(read_counts(table, kModelCounts, architecture));
  if (mla) TRY(read_counts(table, kMlaCounts, architecture));
  if (!mla) TRY(read_counts(table, kGqaCounts, architecture));
  architecture.tied_embedding = TRY(table.flag_or("tied", false));
  const Result<void> sizes = check(architecture);
  if (!sizes) return table.wrong_table(sizes.error().message);
  for (const TomlTable& quant : TRY(table.tables("quant"))) {
    Quant next = TRY(read_quant(quant, architecture));
    const auto same = [&next](const Quant& other) { return other.name == next.name; };
    if (std::ranges::any_of(model.quants, same)) return quant.wrong("name", "a name of its own");
    model.quants.push_back(std::move(next));
  }
  if (model.quants.empty()) return table.wrong("quant", "at least one [[model.quant]]");
  return model;
}

std::string to_toml(const Machine& machine) {
  const auto quoted = [](const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      // Control characters are not legal in such a string, and no title needs one.
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
    return out + '"';
  };
  std::string text = "[[machine]]\nname = " + quoted(machine.name) +
                     "\ntitle = " + quoted(machine.title) + "\nclass = \"" +
                     std::string(name_of(machine.device)) + "\"\n";
  for (const NumberKey<Machine>& key : kMachineNumbers) {
    const double value = machine.*key.member / key.unit;
    if (value == 0.0 && !key.required) continue;
    text += std::string(key.key) + " = " + number_text(value) + '\n';
  }
  for (const SpeedTable& speeds : kMachineSpeeds) {
    const auto& values = machine.*speeds.member;
    if (std::ranges::all_of(values, [](double value) { return value == 0.0; })) continue;
    text += "[machine." + std::string(speeds.key) + "]\n";
    for (std::size_t f = 0; f < kFormats; ++f) {
      if (values[f] == 0.0) continue;
      text += std::string(name_of(static_cast<Format>(f))) + " = " +
              number_text(values[f] / kGiga) + '\n';
    }
  }
  return text;
}

}  // namespace conclave::plan
