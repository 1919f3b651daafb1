// What a simulated pool runs: a model in real arithmetic, and how long things take in virtual time.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cluster/head.h"
#include "engine/engine.h"

namespace conclave::cluster_sim {

// A KV cache in an agent's memory: it outlives workers.
struct SimKv {
  virtual ~SimKv() = default;
  std::uint64_t id = 0;  // of the contents, as Held says
};

class SimModel {
 public:
  virtual ~SimModel() = default;
  virtual const model::ModelConfig& config() const = 0;
  virtual std::unique_ptr<SimKv> make_kv(const cluster::Layout& layout) const = 0;
  // Over all virtual ranks of the layout, in their order. `kv` outlives it.
  virtual std::unique_ptr<backend::Backend> make_backend(const cluster::Layout& layout,
                                                         bool embedding, SimKv& kv) const = 0;
};

struct SimTimes {
  Duration spawn = std::chrono::milliseconds(20);  // until a worker's first statement
  Duration load_common = std::chrono::milliseconds(30);
  double load_bytes_per_second = 1e3;
  Duration operation = std::chrono::milliseconds(2);  // attention or feed-forward of a layer
  Duration row = std::chrono::microseconds(20);       // and each row of it
};

// What an agent keeps for the workers that come after the present one.
struct AgentMemory {
  std::set<std::string> slices;  // complete ones, by name
  bool common = false;
  std::unique_ptr<SimKv> kv;
};

// Names a slice by its ranges: equal names, equal weights.
std::string name_of(const model::Slice& slice);

// How the virtual ranks of a layout divide the vocabulary.
engine::Division division_of(const cluster::Layout& layout);

// The whole answer to `request`, its `generated` included, by one rank without faults that computes
// all virtual ranks of the layout; with a null layout, as one slice, without sums.
struct Answer {
  std::vector<TokenId> tokens;
  engine::FinishReason finish = engine::FinishReason::kNone;
  // By how much the log-probability of each of `tokens` was above the next; empty unless the
  // request asks for two of them.
  std::vector<float> margins;
};
Answer answer_alone(backend::Backend& backend, const cluster::Layout* layout,
                    const engine::Request& request, const engine::EngineOptions& options);

}  // namespace conclave::cluster_sim
