// Questions for traces that are under way: who has answered, and when waiting ends. Sans-I/O.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "wire/wire.h"

namespace conclave::cluster {

class TraceGather {
 public:
  using Done = std::function<void(std::string json)>;
  static constexpr std::size_t kQuestionsMax = 16;  // at once; one more is answered with nothing
  static constexpr Duration kPatience = std::chrono::milliseconds(500);

  // The id to ask `n_ranks` ranks with; 0: there are too many questions, and `done` was called.
  std::uint64_t begin(Time now, std::size_t n_ranks, Done done);
  void on_trace(const wire::pb::Trace& trace);
  void on_tick(Time now);

 private:
  struct Question {
    std::size_t n_ranks = 0;
    Time deadline{};
    Done done;
    std::vector<wire::pb::Trace> traces;
  };
  void finish(std::map<std::uint64_t, Question>::iterator question);

  std::map<std::uint64_t, Question> questions_;
  std::uint64_t next_ = 1;
};

}  // namespace conclave::cluster
