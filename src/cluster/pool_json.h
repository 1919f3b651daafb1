// The pool as JSON: for `conclave pool --json` and GET /conclave/v1/cluster.
#pragma once

#include <deque>
#include <string>

#include "base/clock.h"
#include "cluster/head.h"
#include "cluster/link_table.h"

namespace conclave::cluster {

std::string pool_json(const HeadStatus& status, const std::deque<HistoryEntry>& history,
                      const LinkTable& links, Time now);

}  // namespace conclave::cluster
