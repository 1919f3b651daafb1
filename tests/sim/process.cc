#include "process.h"

#include <utility>

#include "base/check.h"

namespace conclave::cluster_sim {

Process::Process(const Machinery& machinery, std::size_t node, std::function<void(Process&)> main)
    : machinery_(machinery),
      node_(node),
      fiber_(machinery.stacks, [this, main = std::move(main)](sim::Fiber&) { main(*this); }) {
  network().after(node_, Duration::zero(), resumption());
}

void Process::run() {
  if (hung_) {
    missed_ = true;
  } else {
    fiber_.resume();
  }
}

// What ends the present wait, unless something else has ended it before.
sim::Callback Process::resumption() {
  return [this, life = std::weak_ptr<int>(life_), suspension = n_suspensions_] {
    if (life.expired() || suspension != n_suspensions_ || ended()) return;
    run();
  };
}

void Process::suspend() {
  fiber_.yield();
  ++n_suspensions_;
}

void Process::wake() {
  if (woken_ || ended()) return;
  woken_ = true;
  if (waiting_) network().after(node_, Duration::zero(), resumption());
}

void Process::set_hung(bool hung) {
  hung_ = hung;
  if (!hung_ && std::exchange(missed_, false)) {
    network().after(node_, Duration::zero(), resumption());
  }
}

void Process::wait(Time deadline) {
  CHECK(fiber_.running());
  if (!woken_ && deadline > world().now()) {
    sim::Network::TimerId timer = 0;
    if (deadline != Time::max()) {
      timer = network().after(node_, deadline - world().now(), resumption());
    }
    waiting_ = true;
    suspend();
    waiting_ = false;
    if (timer != 0) network().cancel(timer);
  }
  woken_ = false;
}

void Process::compute(Duration duration) {
  CHECK(fiber_.running());
  network().compute(node_, duration, resumption());
  suspend();
}

void Process::pause() {
  CHECK(fiber_.running());
  network().after(node_, Duration::zero(), resumption());
  suspend();
}

}  // namespace conclave::cluster_sim
