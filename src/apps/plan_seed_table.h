// `conclave plan --seed-table`: Kimi K2 on four clusters that people compare, with other software
// of today and with conclave.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "apps/plan_tables.h"
#include "base/result.h"

namespace conclave::apps {

// Two rows a cluster, the other software's first. Errors: the catalogue lacks a name.
Result<std::vector<Row>> seed_rows(const plan::Catalogue& catalogue);
std::string seed_text(std::span<const Row> rows, std::size_t columns);

}  // namespace conclave::apps
