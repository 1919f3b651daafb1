// Catalogues and cluster files: TOML text -> values. docs/planner.md describes every key.
// The text is untrusted: sizes are limited, every number is checked, errors name file and key.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "plan/placement.h"

namespace conclave::plan {

struct CatalogueSource {
  std::string label;  // for errors: "machines.toml"
  std::string text;
};

struct CatalogueModel {
  Architecture architecture;
  std::string title;
  std::vector<Quant> quants;  // [0] is the default
};

// Values of data/*.toml; docs/planner.md describes every key.
struct Catalogue {
  std::vector<Machine> machines;
  std::vector<Link> links;
  std::vector<CatalogueModel> models;
  std::vector<Software> software;
};
inline constexpr std::size_t kCatalogueBytesMax = 1 << 20;
inline constexpr std::size_t kMachinesMax = 100'000;

Result<Catalogue> parse_catalogue(std::span<const CatalogueSource> sources);
// The files of data/, built into the program.
std::span<const CatalogueSource> built_in_sources();

// Errors say which names exist.
Result<Machine> find_machine(const Catalogue& catalogue, std::string_view name);
Result<Link> find_link(const Catalogue& catalogue, std::string_view name);
Result<Software> find_software(const Catalogue& catalogue, std::string_view name);
Result<Model> find_model(const Catalogue& catalogue, std::string_view name, std::string_view quant);
// "int4-g32" or bits as in "4.5"; docs/planner.md lists the names.
Result<PartFormat> parse_part_format(std::string_view text);
// How conclave keeps a checkpoint with `--weights native|int8`; `experts` as shipped.
Quant quant_of(model::WeightsMode mode, PartFormat experts, PartFormat rest);

// A cluster file. `model_override` replaces its model (a checkpoint folder that the caller read).
Result<Cluster> parse_cluster(std::string_view toml, std::string_view label,
                              const Catalogue& catalogue,
                              const std::optional<Model>& model_override = std::nullopt);
// What a cluster file says itself, for a caller that reads folders and reports what was assumed.
struct Stated {
  std::string model;                       // "model = ...", or empty
  std::vector<CatalogueModel> own_models;  // [[model]]; the first is used
  bool quant = false;
  bool software = false;
  bool topology = false;
};
Result<Stated> stated_in(std::string_view toml, std::string_view label);
// One [[machine]] table, as `conclave probe` writes it and `parse_catalogue` reads it.
std::string to_toml(const Machine& machine);

}  // namespace conclave::plan
