// Measurements of `conclave bench` and their summary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/result.h"

namespace conclave::apps {

struct Spread {
  double min = 0.0;
  double median = 0.0;
  double max = 0.0;
};
// Of at least one value; the median of an even number is the mean of the middle two.
Spread spread_of(std::vector<double> values);

struct BenchRow {
  std::string name;        // "prefill 64", "decode"
  std::size_t tokens = 0;  // per run
  std::vector<double> tokens_per_second;
  std::vector<double> plain_gb;       // mean of the probes before and after each run
  std::vector<double> streams_gb;     // the same with four streams per thread
  std::uint64_t bytes_per_token = 0;  // 0 for prefill, where a weight serves many tokens

  std::vector<double> gb_per_second() const;
  std::vector<double> of_plain() const;  // each run's share of its own probes
  std::vector<double> of_streams() const;
};

struct BenchReport {
  std::string model;
  std::string backend;
  std::string weights;
  std::size_t threads = 0;
  std::size_t runs = 0;
  std::uint64_t bytes_per_token = 0;
  double load_seconds = 0.0;
  std::vector<BenchRow> rows;
};
std::string to_text(const BenchReport& report);
nlohmann::ordered_json to_json(const BenchReport& report);

// Times one prompt of random ids through the engine: from admission to its first token.
Result<double> time_prefill(const Clock& clock, backend::Backend& backend, std::size_t tokens,
                            std::uint64_t seed);
// Times `tokens` decode steps after a prompt of one random id.
Result<double> time_decode(const Clock& clock, backend::Backend& backend, std::size_t tokens,
                           std::uint64_t seed);

}  // namespace conclave::apps
