// `conclave plan --json`: everything of a plan, under names that end in their unit and stay.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "apps/plan_outcome.h"

namespace conclave::apps {

nlohmann::ordered_json to_json(const Outcome& outcome);
nlohmann::ordered_json to_json(const plan::Catalogue& catalogue);

// Text that is no UTF-8 (a file's name) is mended; numbers that are not finite become null.
std::string json_text(const nlohmann::ordered_json& json);

}  // namespace conclave::apps
