// A person's cluster file -> Cluster. docs/planner.md describes every key.
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "plan/catalogue.h"
#include "plan/catalogue_tables.h"
#include "plan/check.h"
#include "plan/toml_reader.h"

namespace conclave::plan {
namespace {

bool is_text(const TomlNode* node) {
  return node != nullptr && node->kind == TomlNode::Kind::kText;
}

// A value of the catalogue that the file names; an error names the key as well.
template <class T>
Result<T> located(const TomlTable& table, std::string_view key, Result<T> found) {
  if (found) return found;
  return table.wrong_table(std::string(key) + ": " + found.error().message);
}

class Reader {
 public:
  Reader(const TomlTable& file, const Catalogue& catalogue) : file_(file), catalogue_(catalogue) {}

  Result<Cluster> read(const std::optional<Model>& model_override, std::string_view label) {
    TRY(file_.expect_only({"name", "model", "quant", "software", "link", "topology", "strategy",
                           "use_all", "allow_uneven", "expert_copies", "replicate_attention",
                           "cover_losses", "lifetime_years", "utilisation", "usd_per_kwh",
                           "machine", "pair", "workload", "measured"}));
    Cluster cluster;
    cluster.name = TRY(file_.text_or("name", label));
    TRY(read_own_definitions());
    cluster.model = model_override ? *model_override : TRY(read_model_choice());
    cluster.software = TRY(read_software_choice());
    TRY(read_machines(cluster.pool));
    TRY(read_links(cluster.pool));
    TRY(read_policy(cluster.policy));
    TRY(read_workload(cluster.workload));
    if (const auto measured = TRY(file_.table_if_any("measured"))) {
      TRY(measured->expect_only({"tokens_per_second"}));
      cluster.measured_tokens_per_second = TRY(measured->number("tokens_per_second", {1e-9, 1e12}));
    }
    return cluster;
  }

 private:
  // `link`, `software` and `model` are a name or definitions of the file's own, whose first is
  // used; pairs may name the others.
  Result<void> read_own_definitions() {
    if (!is_text(file_.find("link"))) {
      for (const TomlTable& table : TRY(file_.tables("link"))) {
        own_.links.push_back(TRY(read_link(table)));
        for (std::size_t i = 0; i + 1 < own_.links.size(); ++i) {
          if (own_.links[i].name == own_.links.back().name) {
            return table.wrong("name", "a name of its own");
          }
        }
        if (own_.links.size() > kOwnLinksMax) {
          return table.wrong_table("more than " + std::to_string(kOwnLinksMax) + " links");
        }
      }
    }
    if (!is_text(file_.find("software"))) {
      for (const TomlTable& table : TRY(file_.tables("software"))) {
        own_.software.push_back(TRY(read_software(table)));
      }
    }
    if (!is_text(file_.find("model"))) {
      for (const TomlTable& table : TRY(file_.tables("model"))) {
        own_.models.push_back(TRY(read_model(table)));
      }
    }
    return {};
  }

  Result<Model> read_model_choice() const {
    const std::string quant = TRY(file_.text_or("quant", ""));
    if (!own_.models.empty()) {
      return located(file_, "quant", find_model(own_, own_.models[0].architecture.name, quant));
    }
    if (!file_.has("model")) {
      return file_.wrong("model", "a name of the catalogue, a folder, or a [[model]]");
    }
    const std::string name = TRY(file_.text("model"));
    return located(file_, "model", find_model(catalogue_, name, quant));
  }

  Result<Software> read_software_choice() const {
    if (!own_.software.empty()) return own_.software[0];
    const std::string name = TRY(file_.text_or("software", "conclave"));
    return located(file_, "software", find_software(catalogue_, name));
  }

  Result<Link> link_named(const TomlTable& table) const {
    if (!is_text(table.find("link"))) return read_link(TRY(table.table("link")));
    const std::string name = TRY(table.text("link"));
    for (const Link& link : own_.links) {
      if (link.name == name) return link;
    }
    return located(table, "link", find_link(catalogue_, name));
  }

  Result<void> read_machines(Pool& pool) const {
    constexpr std::string_view kMoreKeys[] = {"use", "count"};
    for (const TomlTable& table : TRY(file_.tables("machine"))) {
      std::optional<Machine> base;
      if (table.has("use")) {
        const std::string use = TRY(table.text("use"));
        base = TRY(located(table, "use", find_machine(catalogue_, use)));
      } else if (!table.has("name")) {
        return table.wrong("name",
                           "the name of a machine of your own, or `use` for one of the "
                           "catalogue");
      }
      Machine machine = TRY(read_machine(table, base ? &*base : nullptr, kMoreKeys));
      const std::size_t count = TRY(table.count_or("count", 1, {1, kMachinesMax}));
      if (pool.machines.size() + count > kMachinesMax) {
        return table.wrong("count", "at most " + std::to_string(kMachinesMax) + " machines");
      }
      if (count == 1) {
        pool.machines.push_back(std::move(machine));
        continue;
      }
      const std::string name = machine.name;
      for (std::size_t i = 1; i <= count; ++i) {
        machine.name = name + "-" + std::to_string(i);
        pool.machines.push_back(machine);
      }
    }
    if (pool.machines.empty()) return file_.wrong("machine", "at least one [[machine]]");
    return {};
  }

  Result<void> read_links(Pool& pool) const {
    if (!own_.links.empty()) {
      pool.link = own_.links[0];
    } else if (file_.has("link")) {
      pool.link = TRY(link_named(file_));
    }
    const std::string topology = TRY(file_.text_or("topology", "switch"));
    if (topology == "switch") {
      pool.topology = Topology::kSwitch;
    } else if (topology == "mesh") {
      pool.topology = Topology::kMesh;
    } else if (topology == "ring") {
      pool.topology = Topology::kRing;
    } else {
      return file_.wrong("topology", "switch, mesh or ring");
    }
    std::unordered_map<std::string_view, std::size_t> index;
    for (std::size_t i = 0; i < pool.machines.size(); ++i) index.emplace(pool.machines[i].name, i);
    for (const TomlTable& table : TRY(file_.tables("pair"))) {
      TRY(table.expect_only({"machines", "link"}));
      const std::vector<std::string> names = TRY(table.texts("machines"));
      if (names.size() != 2) return table.wrong("machines", "the names of two machines");
      PairLink pair;
      pair.link = TRY(link_named(table));
      for (std::size_t end = 0; end < 2; ++end) {
        const auto found = index.find(names[end]);
        if (found == index.end()) return unknown_machine(table, names[end], pool);
        (end == 0 ? pair.a : pair.b) = found->second;
      }
      pool.pairs.push_back(std::move(pair));
    }
    return {};
  }

  static Error unknown_machine(const TomlTable& table, std::string_view name, const Pool& pool) {
    std::vector<std::string_view> names;
    for (const Machine& machine : pool.machines) names.push_back(machine.name);
    return table.wrong_table("machines: no machine \"" + shown_text(name) + "\" in this file" +
                             closest_names(name, names));
  }

  Result<void> read_policy(Policy& policy) const {
    const std::string strategy = TRY(file_.text_or("strategy", "auto"));
    if (strategy != "auto") {
      const auto read = read_enum<Strategy, kStrategies>(file_, "strategy");
      if (!read) return file_.wrong("strategy", "auto, slice, slice-ra, expert or pipeline");
      policy.strategy = *read;
    }
    policy.use_all_machines = TRY(file_.flag_or("use_all", policy.use_all_machines));
    policy.allow_uneven = TRY(file_.flag_or("allow_uneven", policy.allow_uneven));
    if (file_.has("replicate_attention")) {
      policy.replicate_attention = TRY(file_.flag_or("replicate_attention", false));
    }
    policy.expert_copies =
        TRY(file_.count_or("expert_copies", policy.expert_copies, {1, kExpertCopiesMax}));
    policy.cover_losses = TRY(file_.count_or("cover_losses", policy.cover_losses, {0, 1}));
    policy.lifetime_years =
        TRY(file_.number_or("lifetime_years", policy.lifetime_years, {1e-3, kYearsMax}));
    policy.utilisation = TRY(file_.number_or("utilisation", policy.utilisation, {1e-6, 1.0}));
    policy.usd_per_kwh = TRY(file_.number_or("usd_per_kwh", policy.usd_per_kwh, {0.0, 1e6}));
    return {};
  }

  Result<void> read_workload(Workload& workload) const {
    const auto table = TRY(file_.table_if_any("workload"));
    if (!table) return {};
    TRY(table->expect_only({"batch", "context", "prompt", "reserve", "zipf", "speculation"}));
    workload.batch = TRY(table->count_or("batch", workload.batch, {1, kBatchMax}));
    workload.context = TRY(table->count_or("context", workload.context, {0, kContextMax}));
    workload.prompt = TRY(table->count_or("prompt", workload.prompt, {1, kContextMax}));
    const std::size_t needed = workload.batch * workload.context;
    workload.reserve_tokens = std::max(workload.reserve_tokens, needed);
    if (needed > kTokensMax) return table->wrong("context", "batch * context of at most 1e12");
    if (table->has("reserve")) {
      workload.reserve_tokens = TRY(table->count("reserve", {0, kTokensMax}));
      if (workload.reserve_tokens < needed) {
        return table->wrong("reserve", "batch * context or more, " + std::to_string(needed));
      }
    }
    workload.zipf = TRY(table->number_or("zipf", workload.zipf, {0.0, kZipfMax}));
    const auto draft = TRY(table->table_if_any("speculation"));
    if (!draft) return {};
    TRY(draft->expect_only({"draft_tokens", "accepted", "overlap", "draft_ms"}));
    Speculation& speculation = workload.speculation;
    speculation.draft_tokens = TRY(draft->count("draft_tokens", {0, kDraftTokensMax}));
    const double most = static_cast<double>(speculation.draft_tokens) + 1.0;
    speculation.accepted = TRY(draft->number_or("accepted", 1.0, {1.0, most}));
    speculation.expert_overlap = TRY(draft->number_or("overlap", 0.0, {0.0, 1.0}));
    speculation.draft_seconds = TRY(draft->number_or("draft_ms", 0.0, {0.0, 1e6})) * 1e-3;
    return {};
  }

  static constexpr std::size_t kOwnLinksMax = 1000;
  const TomlTable& file_;
  const Catalogue& catalogue_;
  Catalogue own_;
};

}  // namespace

Result<Cluster> parse_cluster(std::string_view toml, std::string_view label,
                              const Catalogue& catalogue,
                              const std::optional<Model>& model_override) {
  const TomlNode root = TRY(parse_toml(toml, label));
  const TomlTable file(label, "", root);
  Cluster cluster = TRY(Reader(file, catalogue).read(model_override, label));
  const Result<void> checked = check(cluster);
  if (!checked) return invalid_input(std::string(label) + ": " + checked.error().message);
  return cluster;
}

Result<Stated> stated_in(std::string_view toml, std::string_view label) {
  const TomlNode root = TRY(parse_toml(toml, label));
  const TomlTable file(label, "", root);
  Stated stated;
  stated.quant = file.has("quant");
  stated.software = file.has("software");
  stated.topology = file.has("topology");
  if (is_text(file.find("model"))) {
    stated.model = TRY(file.text("model"));
    return stated;
  }
  for (const TomlTable& table : TRY(file.tables("model"))) {
    stated.own_models.push_back(TRY(read_model(table)));
  }
  return stated;
}

}  // namespace conclave::plan
