#include "sim_control.h"

#include <utility>

#include "base/check.h"

namespace conclave::cluster_sim {
namespace {

constexpr Duration kLatency = std::chrono::microseconds(100);

}  // namespace

Result<std::vector<wire::pb::ToWorker>> SimControl::receive(bool wait) {
  CHECK(process_ != nullptr);
  waits_ = wait;
  while (wait && !closed_ && to_worker_.empty()) process_->wait(Time::max());
  waits_ = false;
  if (closed_) return unavailable("the agent closed the socket");
  return std::exchange(to_worker_, {});
}

bool SimControl::send(std::span<const wire::pb::FromWorker> messages) {
  if (closed_) return false;
  for (const wire::pb::FromWorker& message : messages) {
    under_way_.push_back(message);
    network_.after(node_, kLatency, [this, life = std::weak_ptr<int>(life_)] {
      if (life.expired() || under_way_.empty()) return;
      arrived_.push_back(std::move(under_way_.front()));
      under_way_.pop_front();
      readable_();
    });
  }
  return true;
}

void SimControl::tell(const wire::pb::ToWorker& message) {
  network_.after(node_, kLatency, [this, life = std::weak_ptr<int>(life_), message] {
    if (life.expired() || closed_) return;
    to_worker_.push_back(message);
    if (process_ != nullptr) process_->wake();
  });
}

std::vector<wire::pb::FromWorker> SimControl::read(bool ended) {
  std::vector<wire::pb::FromWorker> messages = std::exchange(arrived_, {});
  if (ended) {
    for (wire::pb::FromWorker& message : under_way_) messages.push_back(std::move(message));
    under_way_.clear();
  }
  return messages;
}

}  // namespace conclave::cluster_sim
