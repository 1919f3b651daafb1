// The report of `conclave model inspect`, for people and as JSON.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include "model/model.h"

namespace conclave::apps {

struct InspectReport {
  std::string dir;
  std::string weights;  // "native", "int8" or "int4"
  model::ModelConfig config;
  model::ModelReport model;
  std::size_t ignored_tensors = 0;
};

// Sums over the parts; `part` is "total" and `format` is empty.
model::PartBytes total_of(const model::ModelReport& report);

std::string to_text(const InspectReport& report);
nlohmann::ordered_json to_json(const InspectReport& report);

}  // namespace conclave::apps
