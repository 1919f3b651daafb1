// Tables of several plans: what `--list`, `--compare`, `--sweep` and `--what-if` print.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "apps/plan_outcome.h"
#include "apps/plan_svg.h"

namespace conclave::apps {

struct Row {
  std::string name;  // what differs: "6", "link=tb5-rdma", a cluster's name
  Outcome outcome;
};

// `columns`: of the terminal; a narrow one shows fewer figures, a wide one longer names.
std::string list_text(const plan::Catalogue& catalogue, std::size_t columns);
std::string compare_text(std::span<const Row> rows, std::size_t columns);
std::string sweep_text(const Sweep& sweep, std::span<const Row> rows, std::size_t columns);
// `rows[0]` is the cluster as it is.
std::string what_if_text(std::span<const Row> rows, std::size_t columns);

// {"KIND": [{"name": ..., "plan": {...}}]}
nlohmann::ordered_json rows_json(const std::string& kind, std::span<const Row> rows);

// Points that fit.
std::vector<SweepPoint> sweep_points(const Sweep& sweep, std::span<const Row> rows);

// Machines that hold something.
std::size_t machines_used(const Outcome& outcome);

}  // namespace conclave::apps
