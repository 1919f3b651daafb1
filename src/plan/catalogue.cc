#include "plan/catalogue.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "plan/catalogue_tables.h"
#include "plan/toml_reader.h"

namespace conclave::plan {
namespace {

const std::string& name_in(const Machine& machine) { return machine.name; }
const std::string& name_in(const Link& link) { return link.name; }
const std::string& name_in(const Software& software) { return software.name; }
const std::string& name_in(const CatalogueModel& model) { return model.architecture.name; }

// One kind of entry of all sources: a later source replaces what an earlier one said of a name,
// while one source must not say two things.
template <class T>
class Entries {
 public:
  Entries(std::string_view key, std::vector<T>& values) : key_(key), values_(&values) {}

  template <class Read>
  Result<void> add(const TomlTable& file, std::size_t source, Read read) {
    for (const TomlTable& table : TRY(file.tables(key_))) {
      TRY(table.text("name"));
      T value = TRY(read(table));
      if (const auto old = places_.find(name_in(value)); old != places_.end()) {
        if (old->second.source == source) return table.wrong("name", "a name of its own");
        old->second.source = source;
        (*values_)[old->second.index] = std::move(value);
        continue;
      }
      if (values_->size() >= kMachinesMax) {
        return table.wrong_table("more than " + std::to_string(kMachinesMax) + " entries");
      }
      places_.emplace(name_in(value), Place{values_->size(), source});
      values_->push_back(std::move(value));
    }
    return {};
  }

 private:
  struct Place {
    std::size_t index = 0;
    std::size_t source = 0;
  };
  std::string_view key_;
  std::vector<T>* values_;
  std::unordered_map<std::string, Place> places_;
};

template <class T>
Result<T> find_named(const std::vector<T>& values, std::string_view kind, std::string_view name) {
  for (const T& value : values) {
    if (name_in(value) == name) return value;
  }
  std::vector<std::string_view> names;
  names.reserve(values.size());
  for (const T& value : values) names.push_back(name_in(value));
  return not_found("no " + std::string(kind) + " \"" + shown_text(name) + "\"" +
                   closest_names(name, names));
}

}  // namespace

Result<Catalogue> parse_catalogue(std::span<const CatalogueSource> sources) {
  Catalogue catalogue;
  Entries<Machine> machines("machine", catalogue.machines);
  Entries<Link> links("link", catalogue.links);
  Entries<Software> software("software", catalogue.software);
  Entries<CatalogueModel> models("model", catalogue.models);
  const auto machine_of = [](const TomlTable& table) { return read_machine(table, nullptr, {}); };
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const TomlNode root = TRY(parse_toml(sources[i].text, sources[i].label));
    const TomlTable file(sources[i].label, "", root);
    TRY(file.expect_only({"machine", "link", "software", "model"}));
    TRY(machines.add(file, i, machine_of));
    TRY(links.add(file, i, read_link));
    TRY(software.add(file, i, read_software));
    TRY(models.add(file, i, read_model));
  }
  return catalogue;
}

Result<Machine> find_machine(const Catalogue& catalogue, std::string_view name) {
  return find_named(catalogue.machines, "machine", name);
}

Result<Link> find_link(const Catalogue& catalogue, std::string_view name) {
  return find_named(catalogue.links, "link", name);
}

Result<Software> find_software(const Catalogue& catalogue, std::string_view name) {
  return find_named(catalogue.software, "software", name);
}

Result<Model> find_model(const Catalogue& catalogue, std::string_view name,
                         std::string_view quant) {
  const CatalogueModel model = TRY(find_named(catalogue.models, "model", name));
  if (quant.empty() && !model.quants.empty()) return Model{model.architecture, model.quants[0]};
  std::vector<std::string_view> names;
  for (const Quant& known : model.quants) {
    if (known.name == quant) return Model{model.architecture, known};
    names.push_back(known.name);
  }
  return not_found("model \"" + shown_text(name) + "\" has no quant \"" + shown_text(quant) + "\"" +
                   closest_names(quant, names));
}

}  // namespace conclave::plan
