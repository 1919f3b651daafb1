#include "sim_model.h"

#include <utility>

#include "base/check.h"
#include "collective/collective.h"

namespace conclave::cluster_sim {
namespace {

std::string text(const char* what, kernels::Range range) {
  return what + std::to_string(range.begin) + '-' + std::to_string(range.end);
}

}  // namespace

std::string name_of(const model::Slice& slice) {
  return text("h", slice.heads) + text(" e", slice.expert_columns) +
         text(" s", slice.shared_columns) + text(" d", slice.dense_columns) +
         text(" v", slice.vocab);
}

engine::Division division_of(const cluster::Layout& layout) {
  engine::Division division;
  for (const cluster::VirtualRank& rank : layout.virtual_ranks) {
    division.vocab_of_virtual_rank.push_back(rank.slice.vocab);
  }
  return division;
}

Answer answer_alone(backend::Backend& backend, const cluster::Layout* layout,
                    const engine::Request& request, const engine::EngineOptions& options) {
  const ManualClock clock;
  std::optional<collective::Group> group;
  engine::Engine engine(backend, nullptr, options);
  if (layout != nullptr) {
    std::vector<collective::VirtualRank> virtual_ranks;
    for (const cluster::VirtualRank& rank : layout->virtual_ranks) {
      virtual_ranks.push_back({.group = rank.group, .rank = 0});
    }
    group.emplace(nullptr, clock, std::move(virtual_ranks),
                  collective::GroupOptions{.hidden_size = backend.config().hidden_size});
    engine.set_group(&*group, division_of(*layout));
  }
  Answer answer{.tokens = request.generated, .margins = {}};
  CHECK(engine.admit(request));
  while (!engine.idle()) {
    const Result<std::vector<engine::TokenEvent>> events = engine.step();
    CHECK(events);
    for (const engine::TokenEvent& event : *events) {
      if (event.token) answer.tokens.push_back(*event.token);
      if (event.top.size() > 1) {
        answer.margins.push_back(event.top[0].logprob - event.top[1].logprob);
      }
      answer.finish = event.finish;
    }
  }
  return answer;
}

}  // namespace conclave::cluster_sim
