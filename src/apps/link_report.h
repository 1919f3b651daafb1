// Measured links and what `conclave doctor` found, for people. The JSON is that of
// cluster::links_json and cluster::doctor_json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace conclave::apps {

// A row for each machine that calls, a column for each that is called. Empty: nothing is measured.
std::string link_matrix(const nlohmann::ordered_json& links);

// Machines, links, findings, and a last line that says how it stands.
std::string doctor_text(const nlohmann::ordered_json& report);

}  // namespace conclave::apps
