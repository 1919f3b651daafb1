// From flags and files to the cluster that is planned, and to changed ones.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "apps/plan_options.h"
#include "base/result.h"
#include "plan/plan.h"

namespace conclave::apps {

// The built-in catalogue and the *.toml of `dir`, when it is not empty.
Result<plan::Catalogue> load_catalogue(const std::string& path);

struct Subject {
  plan::Cluster cluster;
  std::filesystem::path folder;                  // of the model; empty: it came from the catalogue
  std::vector<plan::CatalogueModel> own_models;  // of the cluster file, when it uses its own
  std::vector<std::string> notes;                // what was assumed, for people
};

// Of `--machines`; a cluster file must say its model.
inline constexpr std::string_view kDefaultModel = "kimi-k2-thinking";
inline constexpr std::string_view kDefaultSoftware = "conclave";
inline constexpr std::string_view kDefaultLink = "10gbe";

// `file`: a cluster file; empty: `options.machines`.
Result<Subject> make_subject(const PlanOptions& options, const plan::Catalogue& catalogue,
                             const std::string& file);

// The same with one thing else. Errors name the change.
Result<Subject> changed(const Subject& subject, const plan::Catalogue& catalogue,
                        const Change& change);
Result<Subject> swept(const Subject& subject, SweepKey key, std::size_t value);

// `count` machines: the first ones, then more of the last one's kind.
Result<void> set_nodes(plan::Cluster& cluster, std::size_t count);
// KV memory for what the workload holds at least.
void raise_reserve(plan::Workload& workload);

}  // namespace conclave::apps
