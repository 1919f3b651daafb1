// Measured links as JSON: for `conclave pool --json`, `conclave doctor --json` and
// GET /conclave/v1/cluster.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/clock.h"
#include "cluster/link_table.h"

namespace conclave::cluster {

// An array; links of machines without a name are left out.
nlohmann::ordered_json links_json(const LinkTable& links,
                                  const std::map<NodeId, std::string>& names, Time now);

}  // namespace conclave::cluster
