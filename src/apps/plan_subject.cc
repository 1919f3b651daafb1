#include "apps/plan_subject.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "base/mapped_file.h"
#include "cluster/cluster.h"

namespace conclave::apps {
namespace {

struct ChosenModel {
  plan::Model model;
  std::filesystem::path folder;
};

bool in_catalogue(const plan::Catalogue& catalogue, std::string_view name) {
  return std::any_of(
      catalogue.models.begin(), catalogue.models.end(),
      [name](const plan::CatalogueModel& model) { return model.architecture.name == name; });
}

bool is_folder(const plan::Catalogue& catalogue, const std::string& name,
               const std::filesystem::path& base) {
  if (in_catalogue(catalogue, name)) return false;
  std::error_code ignored;
  return name.find('/') != std::string::npos || exists(base / name, ignored);
}

Error weights_of_no_folder(std::string_view model) {
  return invalid_input(
      fmt::format("--weights is for a checkpoint folder; \"{}\" takes --quant", model));
}

// A folder may be named relative to `base`, the cluster file's folder.
Result<ChosenModel> choose_model(const PlanOptions& options, const plan::Catalogue& catalogue,
                                 const std::string& name, const std::filesystem::path& base) {
  if (!is_folder(catalogue, name, base)) {
    if (options.weights_given) return weights_of_no_folder(name);
    return ChosenModel{TRY(plan::find_model(catalogue, name, options.quant)), {}};
  }
  if (!options.quant.empty()) {
    return invalid_input(fmt::format(
        "--quant is for a model of the catalogue; the folder {} takes --weights", name));
  }
  const model::WeightsMode mode = TRY(model::parse_weights_mode(options.weights));
  const std::filesystem::path folder = base / name;
  return ChosenModel{TRY(cluster::read_folder_model(folder, mode)), folder};
}

// The catalogue's models, or those of the cluster file alone when it uses its own.
plan::Catalogue models_of(const Subject& subject, const plan::Catalogue& catalogue) {
  plan::Catalogue models;
  models.models = subject.own_models.empty() ? catalogue.models : subject.own_models;
  return models;
}

// "--quant shipped (others: int8, fp8)".
std::string quant_note(const Subject& subject, const plan::Catalogue& catalogue) {
  const plan::Model& chosen = subject.cluster.model;
  std::vector<std::string> others;
  for (const plan::CatalogueModel& model : models_of(subject, catalogue).models) {
    if (model.architecture.name != chosen.architecture.name) continue;
    for (const plan::Quant& quant : model.quants) {
      if (quant.name != chosen.quant.name) others.push_back(quant.name);
    }
  }
  const std::string note = fmt::format("--quant {}", chosen.quant.name);
  return others.empty() ? note : fmt::format("{} (others: {})", note, fmt::join(others, ", "));
}

// What neither flags nor `stated` say, in the order in which people think of it.
void note_defaults(const PlanOptions& options, const plan::Catalogue& catalogue,
                   const plan::Stated& stated, Subject& subject) {
  if (subject.folder.empty() && options.quant.empty() && !stated.quant) {
    subject.notes.push_back(quant_note(subject, catalogue));
  }
  const plan::Pool& pool = subject.cluster.pool;
  if (pool.machines.size() > 1 && options.topology.empty() && !stated.topology) {
    subject.notes.push_back(fmt::format("--topology {}", topology_name(pool.topology)));
  }
  if (options.software.empty() && !stated.software) {
    subject.notes.push_back(fmt::format("--software {}", subject.cluster.software.name));
  }
}

// Copies are numbered from 1 where a name stands more than once.
Result<std::vector<plan::Machine>> machines_of(const std::string& text,
                                               const plan::Catalogue& catalogue) {
  const std::vector<MachineCount> list = TRY(parse_machine_list(text));
  std::map<std::string, std::size_t> totals;
  for (const MachineCount& entry : list) totals[entry.name] += entry.count;
  std::map<std::string, std::size_t> used;
  std::vector<plan::Machine> machines;
  for (const MachineCount& entry : list) {
    const plan::Machine kind = TRY(plan::find_machine(catalogue, entry.name));
    for (std::size_t i = 0; i < entry.count; ++i) {
      machines.push_back(kind);
      const std::size_t number = ++used[entry.name];
      machines.back().name =
          totals[entry.name] == 1 ? entry.name : fmt::format("{}-{}", entry.name, number);
    }
  }
  return machines;
}

// Thunderbolt cables join pairs; everything else has a switch.
plan::Topology usual_topology(const plan::Link& link) {
  return link.name.starts_with("tb") ? plan::Topology::kMesh : plan::Topology::kSwitch;
}

Result<Subject> from_list(const PlanOptions& options, const plan::Catalogue& catalogue) {
  Subject subject;
  plan::Cluster& cluster = subject.cluster;
  cluster.name = options.machines;
  cluster.pool.machines = TRY(machines_of(options.machines, catalogue));
  const std::string model = options.model.empty() ? std::string(kDefaultModel) : options.model;
  if (options.model.empty()) subject.notes.push_back(fmt::format("--model {}", model));
  ChosenModel chosen = TRY(choose_model(options, catalogue, model, ""));
  cluster.model = std::move(chosen.model);
  subject.folder = std::move(chosen.folder);
  const std::string link = options.link.empty() ? std::string(kDefaultLink) : options.link;
  if (cluster.pool.machines.size() > 1 || !options.link.empty()) {
    cluster.pool.link = TRY(plan::find_link(catalogue, link));
    cluster.pool.topology = usual_topology(*cluster.pool.link);
    if (options.link.empty()) subject.notes.push_back(fmt::format("--link {}", link));
  }
  cluster.software = TRY(plan::find_software(catalogue, kDefaultSoftware));
  note_defaults(options, catalogue, {}, subject);
  return subject;
}

// The model that takes the place of the file's; nullopt: the file says all, or what is wrong in it.
Result<std::optional<plan::Model>> model_in_place(const PlanOptions& options,
                                                  const plan::Catalogue& catalogue,
                                                  const plan::Stated& stated,
                                                  const std::string& file, Subject& subject) {
  const bool flagged = !options.quant.empty() || options.weights_given;
  if (options.model.empty() && !stated.own_models.empty()) {
    const std::string& own = stated.own_models[0].architecture.name;
    subject.own_models = stated.own_models;
    if (options.weights_given) return weights_of_no_folder(own);
    if (!flagged) return std::optional<plan::Model>();
    return std::optional(TRY(plan::find_model(models_of(subject, {}), own, options.quant)));
  }
  const std::string& name = options.model.empty() ? stated.model : options.model;
  const std::filesystem::path base =
      options.model.empty() ? std::filesystem::path(file).parent_path() : "";
  const bool as_stated = options.model.empty() && !flagged && !is_folder(catalogue, name, base);
  if (name.empty() || as_stated) return std::optional<plan::Model>();
  ChosenModel chosen = TRY(choose_model(options, catalogue, name, base));
  subject.folder = std::move(chosen.folder);
  return std::optional(std::move(chosen.model));
}

Result<Subject> from_file(const PlanOptions& options, const plan::Catalogue& catalogue,
                          const std::string& file) {
  const std::string text = TRY(read_text_file(file, plan::kCatalogueBytesMax));
  plan::Stated stated = TRY(plan::stated_in(text, file));
  Subject subject;
  const auto model = TRY(model_in_place(options, catalogue, stated, file, subject));
  subject.cluster = TRY(plan::parse_cluster(text, file, catalogue, model));
  if (subject.cluster.name.empty()) {
    subject.cluster.name = std::filesystem::path(file).stem().string();
  }
  if (!options.link.empty()) {
    subject.cluster.pool.link = TRY(plan::find_link(catalogue, options.link));
    subject.cluster.pool.pairs.clear();
  }
  stated.quant = stated.quant && options.model.empty();  // of the model that the flag replaces
  note_defaults(options, catalogue, stated, subject);
  return subject;
}

Result<void> apply_flags(const PlanOptions& options, const plan::Catalogue& catalogue,
                         plan::Cluster& cluster) {
  if (!options.topology.empty()) cluster.pool.topology = TRY(parse_topology(options.topology));
  if (!options.software.empty()) {
    cluster.software = TRY(plan::find_software(catalogue, options.software));
  }
  if (!options.strategy.empty()) {
    cluster.policy.strategy.reset();
    if (options.strategy != "auto") {
      cluster.policy.strategy = TRY(plan::parse_strategy(options.strategy));
    }
  }
  plan::Workload& workload = cluster.workload;
  if (options.batch) workload.batch = *options.batch;
  if (options.context) workload.context = *options.context;
  if (options.prompt) workload.prompt = *options.prompt;
  if (options.zipf) workload.zipf = *options.zipf;
  if (!options.speculation.empty()) {
    workload.speculation = TRY(parse_speculation(options.speculation));
  }
  if (options.reserve) {
    workload.reserve_tokens = *options.reserve;
  } else {
    raise_reserve(workload);
  }
  if (options.measured) cluster.measured_tokens_per_second = options.measured;
  return plan::check(cluster);
}

void scale_memory(plan::Machine& machine, const Amount& amount) {
  const double after = amount.applied_to(machine.peak_bandwidth);
  const double factor = after / machine.peak_bandwidth;
  machine.peak_bandwidth = after;
  for (double& bandwidth : machine.gemv_bandwidth) bandwidth *= factor;
}

template <class Apply>
void for_each_link(plan::Pool& pool, const Apply& apply) {
  if (pool.link) apply(*pool.link);
  for (plan::PairLink& pair : pool.pairs) apply(pair.link);
}

Result<plan::Model> requantised(const Subject& subject, const plan::Catalogue& catalogue,
                                const std::string& quant) {
  if (subject.folder.empty()) {
    return plan::find_model(models_of(subject, catalogue), subject.cluster.model.architecture.name,
                            quant);
  }
  return cluster::read_folder_model(subject.folder, TRY(model::parse_weights_mode(quant)));
}

Result<void> apply(const Subject& subject, const plan::Catalogue& catalogue, const Change& change,
                   plan::Cluster& cluster) {
  switch (change.key) {
    case ChangeKey::kLink:
      cluster.pool.link = TRY(plan::find_link(catalogue, change.value));
      cluster.pool.pairs.clear();
      return {};
    case ChangeKey::kSoftware:
      cluster.software = TRY(plan::find_software(catalogue, change.value));
      return {};
    case ChangeKey::kQuant:
      cluster.model = TRY(requantised(subject, catalogue, change.value));
      return {};
    case ChangeKey::kStrategy:
      cluster.policy.strategy.reset();
      if (change.value == "auto") return {};
      cluster.policy.strategy = TRY(plan::parse_strategy(change.value));
      return {};
    case ChangeKey::kNodes:
      return set_nodes(cluster, change.count);
    case ChangeKey::kBatch:
      cluster.workload.batch = change.count;
      return {};
    case ChangeKey::kContext:
      cluster.workload.context = change.count;
      return {};
    case ChangeKey::kBandwidth:
      for (plan::Machine& machine : cluster.pool.machines) scale_memory(machine, change.amount);
      return {};
    case ChangeKey::kLinkBandwidth:
      for_each_link(cluster.pool, [&](plan::Link& link) {
        link.bandwidth = change.amount.applied_to(link.bandwidth);
      });
      return {};
    case ChangeKey::kLatency:
      for_each_link(cluster.pool, [&](plan::Link& link) {
        link.latency_seconds = change.amount.applied_to(link.latency_seconds);
      });
      return {};
  }
  return {};
}

// A measured figure belongs to the cluster as it was.
void settle(plan::Cluster& cluster) {
  cluster.measured_tokens_per_second.reset();
  plan::adopt_software(cluster);
  raise_reserve(cluster.workload);
}

}  // namespace

Result<plan::Catalogue> load_catalogue(const std::string& path) {
  const auto built_in = plan::built_in_sources();
  std::vector<plan::CatalogueSource> sources(built_in.begin(), built_in.end());
  if (path.empty()) return plan::parse_catalogue(sources);
  std::vector<std::filesystem::path> files;
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    files.push_back(path);
  } else {
    std::filesystem::directory_iterator entry(path, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      if (entry->path().extension() == ".toml") files.push_back(entry->path());
    }
    if (error) return not_found(fmt::format("--catalogue {}: {}", path, error.message()));
    if (files.empty()) return not_found(fmt::format("--catalogue {}: no *.toml in it", path));
  }
  std::sort(files.begin(), files.end());  // the order of a folder is the file system's
  for (const std::filesystem::path& file : files) {
    sources.push_back({file.string(), TRY(read_text_file(file, plan::kCatalogueBytesMax))});
  }
  return plan::parse_catalogue(sources);
}

Result<Subject> make_subject(const PlanOptions& options, const plan::Catalogue& catalogue,
                             const std::string& file) {
  Subject subject =
      file.empty() ? TRY(from_list(options, catalogue)) : TRY(from_file(options, catalogue, file));
  TRY(apply_flags(options, catalogue, subject.cluster));
  plan::adopt_software(subject.cluster);
  return subject;
}

Result<Subject> changed(const Subject& subject, const plan::Catalogue& catalogue,
                        const Change& change) {
  Subject result = subject;
  Result<void> applied = apply(subject, catalogue, change, result.cluster);
  if (applied) {
    // What was assumed and is now said is no longer assumed.
    const std::string flag = fmt::format("--{} ", change.text.substr(0, change.text.find('=')));
    std::erase_if(result.notes, [&flag](const std::string& n) { return n.starts_with(flag); });
    settle(result.cluster);
    applied = plan::check(result.cluster);
  }
  if (applied) return result;
  return Error{applied.error().code,
               fmt::format("--what-if {}: {}", change.text, applied.error().message)};
}

Result<Subject> swept(const Subject& subject, SweepKey key, std::size_t value) {
  Subject result = subject;
  if (key == SweepKey::kNodes) TRY(set_nodes(result.cluster, value));
  if (key == SweepKey::kBatch) result.cluster.workload.batch = value;
  if (key == SweepKey::kContext) result.cluster.workload.context = value;
  settle(result.cluster);
  TRY(plan::check(result.cluster));
  return result;
}

Result<void> set_nodes(plan::Cluster& cluster, std::size_t count) {
  plan::Pool& pool = cluster.pool;
  const std::size_t before = pool.machines.size();
  if (before == 0) return invalid_input("no machine to take more of");
  if (count > before && !pool.link) {
    return invalid_input(
        fmt::format("{} machines: the cluster has {} and no link for more of them (--link NAME)",
                    count, before));
  }
  pool.machines.resize(std::min(count, before));
  const plan::Machine kind = pool.machines.back();
  while (pool.machines.size() < count) {
    pool.machines.push_back(kind);
    // The "+" keeps these apart from "m4-max-128-2", which may be there already.
    pool.machines.back().name = fmt::format("{}+{}", kind.name, pool.machines.size() - before);
  }
  std::erase_if(pool.pairs,
                [count](const plan::PairLink& pair) { return pair.a >= count || pair.b >= count; });
  if (count > 1 && !pool.link && pool.pairs.empty()) {
    return invalid_input(fmt::format("no link joins the first {} machines", count));
  }
  return {};
}

void raise_reserve(plan::Workload& workload) {
  workload.reserve_tokens = std::max(workload.reserve_tokens, workload.batch * workload.context);
}

}  // namespace conclave::apps
