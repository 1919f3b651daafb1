// The clients of a simulated pool: what they asked for, what they were told, and what of it breaks
// a promise.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cluster/layout.h"
#include "engine/engine.h"
#include "scenario.h"
#include "sim_model.h"

namespace conclave::cluster_sim {

// Counts of what the seeds are to reach at least once.
struct Reached {
  std::uint64_t answered = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t refused = 0;         // the head's machine was down
  std::uint64_t lost_with_head = 0;  // was open when the head ended
  std::uint64_t failed_short = 0;    // the machines that were left could not hold the model
  std::uint64_t failed_barren = 0;   // worker after worker ended
  std::uint64_t readmitted = 0;      // admitted again in a fresh epoch
  std::uint64_t epochs = 0;
  std::uint64_t epochs_continued = 0;  // not fresh: the broken step was repeated
  std::uint64_t take_overs = 0;        // epochs in which a virtual rank is not computed at home
  std::uint64_t layouts = 0;
  std::uint64_t drains = 0;
};

class Clients {
 public:
  // What one machine without faults answers, on this layout.
  using Alone = std::function<Answer(const engine::Request&, const cluster::Layout&)>;
  // Whether the answer may depend on the layout.
  Clients(Alone alone, bool by_layout, Reached& reached)
      : alone_(std::move(alone)), by_layout_(by_layout), reached_(reached) {}

  // The request, to be submitted.
  const engine::Request& ask(engine::Request request);
  void on_refused(RequestId id);
  void on_cancelled(RequestId id);
  void on_head_lost();

  // What the head does. `life`: of the head; with the layout's id it names the layout.
  void on_admit(const wire::pb::Admit& admit, std::uint64_t life, const cluster::Layout& layout);
  void on_token(const engine::TokenEvent& event);
  // `could_hold`: the machines that are well were enough for long.
  void on_failure(RequestId id, const Error& error, bool could_hold);
  void on_worker_ended(std::size_t node);

  bool open(RequestId id) const;
  bool all_ended() const;
  const std::optional<std::string>& violation() const { return violation_; }
  void fail(std::string what);
  std::string describe() const;
  // Of all requests that were answered in full.
  void for_each_answer(
      const std::function<void(const engine::Request&, const Answer&)>& visit) const;

 private:
  enum class State : std::uint8_t { kOpen, kAnswered, kFailed, kCancelled };
  struct Client {
    engine::Request request;
    State state = State::kOpen;
    std::vector<TokenId> log;
    engine::FinishReason finish = engine::FinishReason::kNone;
    std::optional<Answer> expected;
    std::uint64_t expected_life = 0;  // of which layout
    std::uint64_t expected_layout = 0;
    std::size_t workers_ended = 0;  // since its last token
  };

  std::string name(RequestId id) const { return "request " + std::to_string(id.value); }

  Alone alone_;
  bool by_layout_;
  Reached& reached_;
  std::map<RequestId, Client> clients_;
  std::map<std::size_t, std::size_t> workers_ended_;  // by node
  std::optional<std::string> violation_;
};

}  // namespace conclave::cluster_sim
