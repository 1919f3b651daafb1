// The same promise with real arithmetic: Ember in slices on three simulated machines, whatever
// breaks, gives bit for bit what one process gives that adds in the same order, and the greedy
// tokens of the undivided model wherever those do not hang on the last bits.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "base/rng.h"
#include "sim_pool.h"

namespace conclave::cluster_sim {
namespace {

using backend::CpuOptions;
using backend::SharedMemory;
using std::chrono::milliseconds;

constexpr std::size_t kSeeds = 30;
constexpr std::size_t kNodes = 3;
constexpr std::size_t kLayoutSeeds = 3;       // weights are packed once for each division
constexpr std::size_t kStackBytes = 1 << 20;  // real kernels need more
constexpr float kMargin = 1e-3f;
constexpr engine::EngineOptions kEngine{.chunk_tokens = 8};
constexpr backend::Limits kLimits{.rows_max = 16, .pages = 4};

struct EmberKv final : SimKv {
  explicit EmberKv(SharedMemory the_memory) : memory(std::move(the_memory)) {}
  SharedMemory memory;
};

class Ember final : public SimModel {
 public:
  Ember() : source_(open()), pool_(1), packed_(source_, pool_) {
    options_ = {.threads = 1, .exact = true, .limits = kLimits};
  }

  const model::ModelConfig& config() const override { return source_.config(); }
  std::unique_ptr<SimKv> make_kv(const cluster::Layout&) const override {
    return std::make_unique<EmberKv>(
        memory(backend::cpu_kv_bytes(config(), kLimits, options_.exact)));
  }
  std::unique_ptr<backend::Backend> make_backend(const cluster::Layout& layout, bool embedding,
                                                 SimKv& kv) const override {
    std::vector<model::Slice> slices;
    for (const cluster::VirtualRank& rank : layout.virtual_ranks) slices.push_back(rank.slice);
    return over(slices, embedding, static_cast<EmberKv&>(kv).memory);
  }

  Answer alone(const engine::Request& request, const cluster::Layout& layout) const {
    const std::unique_ptr<SimKv> kv = make_kv(layout);
    return answer_alone(*make_backend(layout, true, *kv), &layout, request, kEngine);
  }
  // Without any division; with the margins of its choices.
  Answer whole(engine::Request request) const {
    const std::unique_ptr<SimKv> kv = make_kv({});
    request.sampling.top_logprobs = 2;
    const std::vector<model::Slice> slices{model::Slice::whole(config())};
    return answer_alone(*over(slices, true, static_cast<EmberKv&>(*kv).memory), nullptr, request,
                        kEngine);
  }

 private:
  static model::ModelSource open() {
    auto opened = model::ModelSource::open("models/ember");
    CHECK(opened);
    return std::move(*opened);
  }
  static SharedMemory memory(std::size_t bytes) {
    auto created = SharedMemory::create_private(bytes);
    CHECK(created);
    return std::move(*created);
  }

  const SharedMemory& common(bool embedding) const {
    std::unique_ptr<SharedMemory>& arena = common_[embedding];
    if (!arena) {
      arena = std::make_unique<SharedMemory>(
          memory(backend::cpu_common_bytes(source_, embedding, options_)));
      CHECK(backend::load_common(source_, embedding, options_, packed_, *arena, {}));
    }
    return *arena;
  }
  const SharedMemory& slice(const model::Slice& slice) const {
    std::unique_ptr<SharedMemory>& arena = slices_[name_of(slice)];
    if (!arena) {
      arena = std::make_unique<SharedMemory>(
          memory(backend::cpu_slice_bytes(source_, slice, options_)));
      CHECK(backend::load_slice(source_, slice, options_, packed_, *arena, {}));
    }
    return *arena;
  }
  std::unique_ptr<backend::Backend> over(const std::vector<model::Slice>& slices, bool embedding,
                                         SharedMemory& kv) const {
    backend::CpuParts parts{.common = common(embedding), .embedding = embedding, .kv = kv};
    for (const model::Slice& s : slices) parts.slices.push_back({s, slice(s)});
    auto made = backend::make_cpu_backend(source_, parts, options_);
    CHECK(made);
    return std::move(*made);
  }

  model::ModelSource source_;
  ThreadPool pool_;
  mutable backend::LocalPackedSource packed_;
  CpuOptions options_;
  // Packed once, read by all.
  mutable std::map<bool, std::unique_ptr<SharedMemory>> common_;
  mutable std::map<std::string, std::unique_ptr<SharedMemory>> slices_;
};

engine::Request request_of(const ScenarioRequest& asked, RequestId id) {
  engine::Request request;
  request.id = id;
  SplitMix random(asked.seed);
  for (std::size_t i = 0; i < asked.prompt_tokens; ++i) {
    request.prompt.push_back(TokenId{static_cast<std::uint32_t>(random.next() % 7000)});
  }
  request.sampling.temperature = 0.0f;
  request.max_tokens = asked.answer_tokens;
  return request;
}

// The next scenario from `seed` on that has three machines, with short requests.
Scenario draw_ember_scenario(std::uint64_t& seed) {
  Scenario scenario;
  do {
    scenario = draw_scenario(seed++);
  } while (scenario.n_nodes != kNodes);
  if (scenario.requests.size() > 2) scenario.requests.resize(2);
  for (ScenarioRequest& request : scenario.requests) {
    request.prompt_tokens = 1 + request.prompt_tokens % 12;
    request.answer_tokens = 1 + request.answer_tokens % 8;
  }
  return scenario;
}

PoolSetup setup_of(const Ember& ember, std::uint64_t seed) {
  PoolSetup setup(ember);
  setup.times.operation = milliseconds(10);
  setup.placer = {.seed = seed % kLayoutSeeds,
                  .rows_max = kLimits.rows_max,
                  .pages = kLimits.pages,
                  .exact = true};
  setup.engine = kEngine;
  const std::size_t units = ember.config().moe_intermediate_size / 32;
  for (std::size_t node = 0; node < kNodes; ++node) {
    setup.usable_bytes.push_back(bytes_for(units, node == 0));
  }
  setup.request = request_of;
  setup.answers_depend_on_layout = true;
  setup.alone = [&ember](const engine::Request& request, const cluster::Layout& layout) {
    return ember.alone(request, layout);
  };
  return setup;
}

// Up to the first choice that hangs on the last bits.
std::size_t expect_greedy(const Answer& answer, const Answer& whole) {
  std::size_t n = 0;
  for (; n < answer.tokens.size() && n < whole.tokens.size(); ++n) {
    if (whole.margins[n] <= kMargin) break;
    EXPECT_EQ(answer.tokens[n], whole.tokens[n]) << "token " << n;
  }
  return n;
}

TEST(EmberSim, SameBitsAsOneMachineUnderAnyFaults) {
  const Ember ember;
  sim::FiberStacks stacks(kStackBytes);
  Reached reached;
  Coverage coverage;
  std::size_t n_compared = 0;
  std::uint64_t seed = 0;
  for (std::size_t i = 0; i < kSeeds; ++i) {
    const Scenario scenario = draw_ember_scenario(seed);
    const MakeSystem make = [&](const Surroundings& around) {
      return std::make_unique<SimPool>(around, setup_of(ember, scenario.seed), reached);
    };
    const Outcome outcome = run(scenario, make, stacks, {}, [&](const System& system) {
      static_cast<const SimPool&>(system).clients().for_each_answer(
          [&](const engine::Request& request, const Answer& answer) {
            n_compared += expect_greedy(answer, ember.whole(request));
          });
    });
    ASSERT_FALSE(outcome.failure.has_value()) << *outcome.failure << '\n' << describe(scenario);
    coverage.add(outcome.coverage);
  }
  EXPECT_GT(reached.answered, kSeeds);
  EXPECT_GT(reached.take_overs, 0u);
  EXPECT_GT(reached.epochs_continued, 0u);
  EXPECT_GT(n_compared, 4 * kSeeds);
}

}  // namespace
}  // namespace conclave::cluster_sim
