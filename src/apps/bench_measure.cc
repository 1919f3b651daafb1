#include "apps/bench_measure.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/rng.h"
#include "engine/engine.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

// Runs one request of random ids to its end. Returns the time of its first token, and of its end,
// after admission.
struct Timing {
  double first = 0.0;
  double all = 0.0;
};
Result<Timing> time_request(const Clock& clock, backend::Backend& backend, std::size_t prompt,
                            std::size_t answer, std::uint64_t seed) {
  engine::EngineOptions options;
  options.requests_max = 1;
  options.chunk_tokens = backend.limits().rows_max;
  engine::Engine engine(backend, nullptr, options);
  engine::Request request;
  request.id = RequestId{1};
  request.sampling.temperature = 0.0f;
  request.max_tokens = answer;
  SplitMix random(seed);
  for (std::size_t i = 0; i < prompt; ++i) {
    const std::uint64_t id = random.next() % backend.config().vocab_size;
    request.prompt.push_back(TokenId{static_cast<std::uint32_t>(id)});
  }
  const Time start = clock.now();
  TRY(engine.admit(std::move(request)));
  Timing timing;
  std::size_t tokens = 0;
  while (!engine.idle()) {
    const std::vector<engine::TokenEvent> events = TRY(engine.step());
    for (const engine::TokenEvent& event : events) {
      if (event.finish == engine::FinishReason::kError) return unavailable(event.error);
      if (event.token && tokens++ == 0) timing.first = seconds(clock.now() - start);
    }
  }
  timing.all = seconds(clock.now() - start);
  CHECK(tokens == answer);
  return timing;
}

std::vector<double> ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> out;
  for (std::size_t i = 0; i < a.size(); ++i) out.push_back(b[i] > 0 ? a[i] / b[i] : 0.0);
  return out;
}

std::string spread_text(std::vector<double> values, int digits) {
  const Spread s = spread_of(std::move(values));
  return fmt::format("{:.{}f} / {:.{}f} / {:.{}f}", s.min, digits, s.median, digits, s.max, digits);
}

Json spread_json(std::vector<double> values) {
  const Spread s = spread_of(std::move(values));
  Json json;
  json["min"] = s.min;
  json["median"] = s.median;
  json["max"] = s.max;
  return json;
}

}  // namespace

Spread spread_of(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
  return {.min = values.front(), .median = median, .max = values.back()};
}

std::vector<double> BenchRow::gb_per_second() const {
  std::vector<double> out;
  for (const double speed : tokens_per_second) {
    out.push_back(speed * static_cast<double>(bytes_per_token) / 1e9);
  }
  return out;
}

std::vector<double> BenchRow::of_plain() const { return ratio(gb_per_second(), plain_gb); }
std::vector<double> BenchRow::of_streams() const { return ratio(gb_per_second(), streams_gb); }

std::string to_text(const BenchReport& report) {
  std::string text = fmt::format(
      "{} on {}, weights {}, {:.1f} MB read per token, loaded in {:.1f} s; min / median / max of "
      "{}\n",
      report.model, report.backend, report.weights,
      static_cast<double>(report.bytes_per_token) / 1e6, report.load_seconds, report.runs);
  text += fmt::format("{:<12} {:>24} {:>21} {:>21} {:>21} {:>20}\n", "", "tok/s", "GB/s",
                      "plain read GB/s", "4 streams GB/s", "share of plain");
  for (const BenchRow& row : report.rows) {
    const bool reads = row.bytes_per_token != 0;
    text +=
        fmt::format("{:<12} {:>24} {:>21} {:>21} {:>21} {:>20}\n", row.name,
                    spread_text(row.tokens_per_second, 2),
                    reads ? spread_text(row.gb_per_second(), 1) : "", spread_text(row.plain_gb, 1),
                    spread_text(row.streams_gb, 1), reads ? spread_text(row.of_plain(), 2) : "");
  }
  return text;
}

Json to_json(const BenchReport& report) {
  Json json;
  json["model"] = report.model;
  json["backend"] = report.backend;
  json["weights"] = report.weights;
  json["threads"] = report.threads;
  json["runs"] = report.runs;
  json["bytes_per_token"] = report.bytes_per_token;
  json["load_seconds"] = report.load_seconds;
  json["results"] = Json::array();
  for (const BenchRow& row : report.rows) {
    Json entry;
    entry["name"] = row.name;
    entry["tokens"] = row.tokens;
    entry["tokens_per_second"] = spread_json(row.tokens_per_second);
    entry["probe_plain_gb_per_second"] = spread_json(row.plain_gb);
    entry["probe_4_streams_gb_per_second"] = spread_json(row.streams_gb);
    if (row.bytes_per_token != 0) {
      entry["gb_per_second"] = spread_json(row.gb_per_second());
      entry["of_plain"] = spread_json(row.of_plain());
      entry["of_4_streams"] = spread_json(row.of_streams());
    }
    json["results"].push_back(std::move(entry));
  }
  return json;
}

Result<double> time_prefill(const Clock& clock, backend::Backend& backend, std::size_t tokens,
                            std::uint64_t seed) {
  return TRY(time_request(clock, backend, tokens, 1, seed)).first;
}

Result<double> time_decode(const Clock& clock, backend::Backend& backend, std::size_t tokens,
                           std::uint64_t seed) {
  const Timing timing = TRY(time_request(clock, backend, 1, tokens + 1, seed));
  return timing.all - timing.first;
}

}  // namespace conclave::apps
