// The one thread of a simulated agent: what happens to the agent runs at once, or in order when
// the process goes on, if it is stopped.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "sim/sim.h"

namespace conclave::cluster_sim {

// Ends with the agent: then nothing of it runs any more.
class AgentThread {
 public:
  // The network must outlive it. Its node must be up.
  AgentThread(sim::Network& network, std::size_t node) : network_(network), node_(node) {}
  AgentThread(const AgentThread&) = delete;
  AgentThread& operator=(const AgentThread&) = delete;

  void run(std::function<void()> callback) {
    if (stopped_ || !waiting_.empty()) {
      waiting_.push_back(std::move(callback));
    } else {
      callback();
    }
  }

  void after(Duration delay, std::function<void()> callback) {
    network_.after(node_, delay, [this, life = std::weak_ptr<int>(life_), callback] {
      if (!life.expired()) run(callback);
    });
  }
  // From outside the machine.
  void post(std::function<void()> callback) { after(Duration::zero(), std::move(callback)); }

  // Stopped, its machine and its worker go on.
  void set_stopped(bool stopped) {
    stopped_ = stopped;
    if (stopped_) return;
    network_.after(node_, Duration::zero(), [this, life = std::weak_ptr<int>(life_)] {
      if (!life.expired()) catch_up();
    });
  }
  bool stopped() const { return stopped_; }

 private:
  void catch_up() {
    const std::weak_ptr<int> life = life_;
    while (!life.expired() && !stopped_ && !waiting_.empty()) {
      const std::function<void()> next = std::move(waiting_.front());
      waiting_.pop_front();
      next();
    }
  }

  sim::Network& network_;
  std::size_t node_;
  bool stopped_ = false;
  std::deque<std::function<void()>> waiting_;
  std::shared_ptr<int> life_ = std::make_shared<int>(0);  // events hold it weakly
};

}  // namespace conclave::cluster_sim
