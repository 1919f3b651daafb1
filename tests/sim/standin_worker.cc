#include "standin_worker.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"

namespace conclave::cluster_sim::standin {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr Duration kJoinLimit = milliseconds(300);
constexpr Duration kWaitLimit = milliseconds(300);

}  // namespace

void StandinCluster::Worker::work(Phase phase, Duration duration) {
  if (cluster_.around_.reached(phase)) self_.pause();
  self_.compute(duration);
}

void StandinCluster::Worker::load() {
  for (int part = 0; part < 4; ++part) work(Phase::kLoad, milliseconds(3));
  control_.endpoint = fabric_.endpoint();
  control_.ready = true;
  cluster_.report(self_.node());
}

void StandinCluster::Worker::run() {
  load();
  std::uint32_t last_epoch = 0;
  for (;;) {
    if (control_.wanted.epoch <= last_epoch) {
      self_.wait(Time::max());
      continue;
    }
    const Assignment assignment = control_.wanted;
    last_epoch = assignment.epoch;
    live(assignment);
    control_.broken_epoch = last_epoch;
    cluster_.report(self_.node());
  }
}

void StandinCluster::Worker::live(const Assignment& assignment) {
  const auto own = std::ranges::find(assignment.nodes, self_.node());
  if (own == assignment.nodes.end()) return;
  const transport::GroupSpec spec{.cluster = 1,
                                  .epoch = assignment.epoch,
                                  .rank = static_cast<Rank>(own - assignment.nodes.begin()),
                                  .ranks = assignment.ranks};
  if (spec.ranks[spec.rank] != fabric_.endpoint()) return;  // of an earlier worker's life
  Watch watch(control_, assignment.epoch);
  const auto transport = fabric_.join(spec, self_.world().now() + kJoinLimit, &watch);
  if (!transport) return;

  std::vector<collective::VirtualRank> virtual_ranks;
  for (std::size_t v = 0; v < assignment.computed_by.size(); ++v) {
    virtual_ranks.push_back({cluster_.groups_[v], assignment.computed_by[v]});
  }
  collective::Group group(
      transport.value().get(), self_.world(), std::move(virtual_ranks),
      {.hidden_size = kHidden, .direct_bytes_max = kDirectBytesMax, .wait_limit = kWaitLimit});
  if (spec.rank == 0) {
    lead(group, assignment.epoch);
  } else {
    while (follow(group)) {
    }
  }
  const collective::GroupStats& stats = group.stats();
  if (stats.mismatches != 0) cluster_.fail("ranks chose different experts");
  if (stats.rounds > stats.exchanges) ++cluster_.reached_.large_exchanges;
  if (group.broken()) ++cluster_.reached_.broken[static_cast<std::size_t>(group.broken()->kind)];
}

// A step that breaks leaves no trace, so the next epoch repeats it.
void StandinCluster::Worker::lead(collective::Group& group, std::uint32_t epoch) {
  for (std::uint32_t number = 0;; ++number) {
    take_admits();
    std::optional<Step> step = plan();
    while (!step) {
      if (control_.wanted.epoch != epoch) return;
      self_.wait(Time::max());
      take_admits();
      step = plan();
    }
    if (control_.wanted.epoch != epoch) return;
    const std::byte description{static_cast<unsigned char>(step->prefill ? 1 : 0)};
    const auto sent = group.send_step(number, {&description, 1}, step->residual);
    std::vector<float> hidden = step->residual;
    const auto logits = sent ? forward(group, number, hidden, step->prefill)
                             : Result<std::vector<std::vector<float>>>(sent.error());
    if (!logits) {
      ++cluster_.reached_.repeated_steps;
      return;
    }
    finish(*step, logits.value());
  }
}

Result<void> StandinCluster::Worker::follow(collective::Group& group) {
  auto message = TRY(group.receive_step());
  if (message.description.size() != 1) return corrupt("a step of another size");
  const bool prefill = message.description[0] == std::byte{1};
  TRY(forward(group, message.step, message.residual, prefill));
  return {};
}

void StandinCluster::Worker::take_admits() {
  while (!control_.admits.empty()) {
    open_.push_back({.admit = std::move(control_.admits.front())});
    control_.admits.pop_front();
  }
  // Answered, or given up by the agent.
  std::erase_if(open_, [&](const Sequence& s) {
    return s.admit.log.size() == cluster_.requests_[s.admit.request].expected.size();
  });
}

// The oldest prompt's next chunk, else a row for each open sequence.
std::optional<StandinCluster::Worker::Step> StandinCluster::Worker::plan() {
  Step step;
  const auto add_row = [&](std::size_t index, std::size_t n_prompt,
                           std::span<const std::uint64_t> answer) {
    const Request& request = cluster_.requests_[open_[index].admit.request];
    const std::vector<float> row = residual_row(request.asked, n_prompt, answer);
    step.residual.insert(step.residual.end(), row.begin(), row.end());
  };
  for (std::size_t i = 0; i < open_.size(); ++i) {
    const std::size_t n_prompt = cluster_.requests_[open_[i].admit.request].asked.prompt_tokens;
    if (open_[i].n_prefilled + 1 >= n_prompt) continue;  // the last is a decode row
    const std::size_t end = std::min(open_[i].n_prefilled + kChunk, n_prompt - 1);
    for (std::size_t n = open_[i].n_prefilled; n < end; ++n) add_row(i, n + 1, {});
    step.prefill = true;
    step.sequences = {i};
    return step;
  }
  for (std::size_t i = 0; i < open_.size(); ++i) {
    add_row(i, cluster_.requests_[open_[i].admit.request].asked.prompt_tokens, open_[i].admit.log);
    step.sequences.push_back(i);
  }
  if (step.sequences.empty()) return std::nullopt;
  return step;
}

Result<std::vector<std::vector<float>>> StandinCluster::Worker::forward(collective::Group& group,
                                                                        std::uint32_t step,
                                                                        std::vector<float>& hidden,
                                                                        bool prefill) {
  for (std::uint16_t l = 0; l < kLayers; ++l) TRY(layer(group, step, l, hidden, prefill));
  const std::size_t first_row = prefill ? hidden.size() - kHidden : 0;
  const std::size_t n_rows = (hidden.size() - first_row) / kHidden;
  std::vector<std::vector<float>> shares;  // of own virtual ranks: [n_rows, kLogitsPerVirtualRank]
  for (const std::size_t v : group.own()) {
    std::vector<float>& share = shares.emplace_back();
    for (std::size_t row = first_row; row < hidden.size(); row += kHidden) {
      const std::vector<float> of_row = logits(v, std::span(hidden).subspan(row, kHidden));
      share.insert(share.end(), of_row.begin(), of_row.end());
    }
  }
  std::vector<std::vector<float>> rows(n_rows);
  TRY(group.gather_head(
      step, [&](std::size_t i) { return std::span<const float>(shares[i]); },
      [&](std::size_t, std::span<const float> values) -> Result<void> {
        if (values.size() != n_rows * kLogitsPerVirtualRank) return corrupt("another number");
        for (std::size_t row = 0; row < n_rows; ++row) {
          const auto of_row = values.subspan(row * kLogitsPerVirtualRank, kLogitsPerVirtualRank);
          rows[row].insert(rows[row].end(), of_row.begin(), of_row.end());
        }
        return {};
      }));
  return rows;
}

Result<void> StandinCluster::Worker::layer(collective::Group& group, std::uint32_t step,
                                           std::uint16_t layer, std::span<float> hidden,
                                           bool prefill) {
  for (const wire::Phase phase : {wire::Phase::kAttention, wire::Phase::kFeedForward}) {
    work(prefill ? Phase::kPrefill : Phase::kDecode, microseconds(prefill ? 400 : 100));
    const collective::Tag tag{step, layer, phase};
    std::vector<std::vector<float>> partials;
    for (const std::size_t v : group.own()) partials.push_back(partial(v, tag, hidden));
    const Routing routing = route(layer, hidden);
    const collective::RoutingCheck check{
        .experts = routing.experts,
        .weights = routing.weights,
        .recompute = [&](std::span<const ExpertId>, std::span<const float>) -> Result<void> {
          cluster_.fail("rank " + std::to_string(group.rank()) + " chose other experts");
          return {};
        }};
    TRY(group.exchange(
        tag, [&](std::size_t i) { return std::span<const float>(partials[i]); }, hidden,
        phase == wire::Phase::kFeedForward ? &check : nullptr));
  }
  return {};
}

void StandinCluster::Worker::finish(const Step& step,
                                    const std::vector<std::vector<float>>& logits) {
  if (step.prefill) {
    Sequence& sequence = open_[step.sequences[0]];
    sequence.n_prefilled += step.residual.size() / kHidden;
    return;
  }
  for (std::size_t row = 0; row < step.sequences.size(); ++row) {
    Admit& admit = open_[step.sequences[row]].admit;
    const std::uint64_t token = token_of(logits[row]);
    const std::size_t index = admit.log.size();
    admit.log.push_back(token);
    // What is in the socket arrives, even if the worker ends now.
    cluster_.network().after(self_.node(), microseconds(300),
                             [&cluster = cluster_, request = admit.request, attempt = admit.attempt,
                              index, token] { cluster.on_token(request, attempt, index, token); });
  }
}

}  // namespace conclave::cluster_sim::standin
