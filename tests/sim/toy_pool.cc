#include "toy_pool.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "base/rng.h"
#include "engine/integer_backend.h"

namespace conclave::cluster_sim {
namespace {

using engine::IntegerBackend;
using engine::IntegerOptions;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::size_t kRowsMax = 64;
constexpr std::size_t kPages = 10;  // too few for all requests at once
constexpr std::size_t kLayers = 2;
constexpr engine::EngineOptions kEngine{.chunk_tokens = 32};

IntegerOptions integer_options(bool rounding) {
  return {.seed = 1,
          .limits = {.rows_max = kRowsMax, .pages = kPages},
          .n_layers = kLayers,
          .columns = 32 * kToyUnits,
          .max_positions = 1024,
          .rounding = rounding};
}

struct ToyKv final : SimKv {
  std::vector<std::uint64_t> numbers;
};

class ToyModel final : public SimModel {
 public:
  explicit ToyModel(bool rounding)
      : options_(integer_options(rounding)), config_(engine::integer_config(options_)) {}

  const model::ModelConfig& config() const override { return config_; }
  std::unique_ptr<SimKv> make_kv(const cluster::Layout&) const override {
    auto kv = std::make_unique<ToyKv>();
    kv->numbers.resize(engine::integer_kv_size(options_));
    return kv;
  }
  std::unique_ptr<backend::Backend> make_backend(const cluster::Layout& layout, bool embedding,
                                                 SimKv& kv) const override {
    return over(slices_of(layout, embedding), static_cast<ToyKv&>(kv).numbers);
  }
  std::unique_ptr<backend::Backend> alone(const cluster::Layout& layout) const {
    return over(slices_of(layout, true), {});
  }
  std::unique_ptr<backend::Backend> whole() const {
    return std::make_unique<IntegerBackend>(options_);
  }

 private:
  std::unique_ptr<backend::Backend> over(std::vector<model::Slice> slices,
                                         std::span<std::uint64_t> kv) const {
    IntegerOptions options = options_;
    options.kv = kv;
    return std::make_unique<IntegerBackend>(options, std::move(slices));
  }
  static std::vector<model::Slice> slices_of(const cluster::Layout& layout, bool embedding) {
    std::vector<model::Slice> slices;
    for (const cluster::VirtualRank& rank : layout.virtual_ranks) slices.push_back(rank.slice);
    slices[0].embedding = embedding;
    return slices;
  }

  IntegerOptions options_;
  model::ModelConfig config_;
};

engine::Request request_of(const ScenarioRequest& asked, RequestId id) {
  engine::Request request;
  request.id = id;
  SplitMix random(asked.seed);
  for (std::size_t i = 0; i < asked.prompt_tokens; ++i) {
    request.prompt.push_back(
        TokenId{static_cast<std::uint32_t>(random.next() % engine::kIntegerVocab)});
  }
  request.sampling.temperature = random.next() % 2 == 0 ? 0.0f : 1.0f;
  request.sampling.seed = random.next();
  if (random.next() % 4 == 0) request.sampling.repetition_penalty = 1.3f;
  if (random.next() % 4 == 0) request.stop_ids = {TokenId{7}};
  request.max_tokens = asked.answer_tokens;
  return request;
}

PoolSetup setup_of(const ToyModel& model, const ToyOptions& options) {
  PoolSetup setup(model);
  setup.times = options.times;
  setup.request = request_of;
  setup.head.cover_losses = options.cover_losses;
  setup.placer = {.seed = options.seed,
                  .cover_losses = options.cover_losses,
                  .rows_max = kRowsMax,
                  .pages = kPages};
  setup.engine = kEngine;
  setup.limits.direct_bytes_max = 512;  // large exchanges occur too
  for (std::size_t node = 0; node < options.rooms.size(); ++node) {
    setup.usable_bytes.push_back(bytes_for(options.rooms[node], node == 0));
  }
  setup.answers_depend_on_layout = options.rounding;
  setup.settles = options.settles;
  setup.alone = [&model, rounding = options.rounding](const engine::Request& request,
                                                      const cluster::Layout& layout) {
    if (!rounding) return answer_alone(*model.whole(), nullptr, request, kEngine);
    return answer_alone(*model.alone(layout), &layout, request, kEngine);
  };
  return setup;
}

}  // namespace

ToyOptions draw_toy(const Scenario& scenario) {
  sim::RandomStream random = sim::World(scenario.seed).stream("toy");
  ToyOptions options;
  options.seed = random.next();
  options.rounding = random.chance(0.5);
  options.cover_losses = random.chance(0.8) ? 1 : 0;
  options.settles = random.chance(0.3);
  const std::size_t n = scenario.n_nodes;
  const double memory = random.uniform();
  std::size_t sum = 0;
  for (std::size_t node = 0; node < n; ++node) {
    std::size_t room = kToyUnits + random.below(kToyUnits);               // each can hold it all
    if (memory < 0.6) room = 2 * (kToyUnits + n - 1) / n;                 // twice all together
    if (memory < 0.25) room = (kToyUnits + n - 1) / n + random.below(2);  // hardly
    options.rooms.push_back(room);
    sum += room;
  }
  if (sum < kToyUnits) options.rooms[0] += kToyUnits - sum;
  options.times.operation = microseconds(1000 + random.below(15000));
  options.times.spawn = milliseconds(5 + random.below(100));
  options.times.load_common = milliseconds(10 + random.below(100));
  options.times.load_bytes_per_second = 1e3 * (1.0 + 9.0 * random.uniform());
  return options;
}

std::string describe(const ToyOptions& options) {
  std::ostringstream text;
  text << (options.rounding ? "rounding" : "integers") << " cover=" << options.cover_losses
       << " operation_ms=" << seconds(options.times.operation) * 1e3 << " rooms=";
  for (const std::size_t room : options.rooms) text << room << ' ';
  return text.str();
}

Outcome run_toy(const Scenario& scenario, const ToyOptions& options, sim::FiberStacks& stacks,
                Reached& reached, const RunLimits& limits) {
  const ToyModel model(options.rounding);
  const MakeSystem make = [&](const Surroundings& around) {
    return std::make_unique<SimPool>(around, setup_of(model, options), reached);
  };
  return run(scenario, make, stacks, limits);
}

}  // namespace conclave::cluster_sim
