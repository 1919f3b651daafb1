// The report of `conclave plan` on one cluster, for people. At most kReportColumns wide.
#pragma once

#include <cstddef>
#include <string>

#include "apps/plan_outcome.h"

namespace conclave::apps {

inline constexpr std::size_t kReportColumns = 100;
inline constexpr std::size_t kReportColumnsMin = 60;
// For tables that have all their columns; narrower ones leave some out.
inline constexpr std::size_t kTableColumns = 80;
std::size_t report_width(std::size_t columns);  // held to the limits above

// `columns`: of the terminal.
std::string report_text(const Outcome& outcome, std::size_t columns);

// Shared with the tables.
// "4 x Mac Studio M3 Ultra, 512 GB + 1 x Mac Studio M4 Max, 128 GB"
std::string machines_text(const plan::Pool& pool);
// "Thunderbolt 5 RDMA, mesh"; "no link" for one machine.
std::string links_text(const plan::Pool& pool);
// "... 104.2 GB missing; 2 machines like Mac Studio ... would hold it"
std::string missing_text(const Outcome& outcome);

}  // namespace conclave::apps
